/** The first page: the form for new downloads, and the list of all of them. */

import { useMemo, useState } from "preact/hooks";
import { type BoardFilter, NO_FILTER } from "../board";
import { siteOf } from "../format";
import { JobList, useBoard } from "../jobList";
import { replaceQuery, useRoute } from "../router";
import { allows } from "../session";
import { SubmitForm } from "../submit";
import { Page, TextField } from "../ui";
import { countDownloads, describeState } from "../words";

const LIVE_STATES = ["QUEUED", "RUNNING", "RETRYING", "CANCELLING", "PAUSED"];
const SETS: readonly (readonly [string, string, readonly string[]])[] = [
  ["all", "All", []],
  ["live", "In progress", LIVE_STATES],
  ["SUCCEEDED", describeState("SUCCEEDED").word, ["SUCCEEDED"]],
  ["FAILED", describeState("FAILED").word, ["FAILED"]],
  ["CANCELLED", describeState("CANCELLED").word, ["CANCELLED"]],
  ["PAUSED", describeState("PAUSED").word, ["PAUSED"]],
];
const TYPING_MS = 300;

export function DownloadsPage() {
  const { query } = useRoute();
  const [fields, setFields] = useState({
    set: query.get("show") ?? "all",
    text: query.get("text") ?? "",
    site: query.get("site") ?? "",
    batch: query.get("batch") ?? "",
  });
  const [applied, setApplied] = useState(fields);
  const filter = useMemo<BoardFilter>(
    () => ({
      ...NO_FILTER,
      states: SETS.find(([name]) => name === applied.set)?.[2] ?? [],
      text: applied.text.trim(),
      site: applied.site.trim(),
      batch: applied.batch,
    }),
    [applied],
  );
  const board = useBoard(filter);
  const change = (changes: Partial<typeof fields>) => {
    const next = { ...fields, ...changes };
    setFields(next);
    apply(next, changes.set === undefined ? TYPING_MS : 0, setApplied);
  };
  const sites = [...new Set(board.rows.map((job) => siteOf(job.url)))].sort();
  return (
    <Page title="Downloads">
      {allows("DOWNLOAD") && <SubmitForm />}
      <section aria-label="Downloads">
        <div class="filters">
          <div class="tabs" role="group" aria-label="Show">
            {SETS.map(([name, word]) => (
              <button key={name} type="button" aria-pressed={fields.set === name} onClick={() => change({ set: name })}>
                {word}
              </button>
            ))}
          </div>
          <TextField label="Search" type="search" value={fields.text} onChange={(text) => change({ text })} />
          <TextField label="Site" list="sites" value={fields.site} onChange={(site) => change({ site })} />
          <datalist id="sites">
            {sites.map((site) => (
              <option key={site} value={site} />
            ))}
          </datalist>
          <p class="count figures">
            {describeCount(board.total)}
            {fields.batch && (
              <>
                {" of one batch · "}
                <button type="button" class="link" onClick={() => change({ batch: "" })}>
                  Show all
                </button>
              </>
            )}
          </p>
        </div>
        <JobList board={board} label="Downloads" empty={describeEmpty(filter)} />
      </section>
    </Page>
  );
}

let typing: ReturnType<typeof setTimeout> | undefined;

function apply<T extends { set: string; text: string; site: string; batch: string }>(
  fields: T,
  delay: number,
  setApplied: (fields: T) => void,
): void {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const query = new URLSearchParams();
    if (fields.set !== "all") query.set("show", fields.set);
    for (const name of ["text", "site", "batch"] as const) if (fields[name]) query.set(name, fields[name]);
    replaceQuery(query);
    setApplied(fields);
  }, delay);
}

function describeCount(total: number): string {
  if (total >= 10000) return "10,000 or more";
  return countDownloads(total);
}

function describeEmpty(filter: BoardFilter): string {
  const isFiltered = filter.states.length || filter.text || filter.site || filter.batch;
  return isFiltered ? "No download matches." : "Nothing has been downloaded yet. Paste an address above.";
}
