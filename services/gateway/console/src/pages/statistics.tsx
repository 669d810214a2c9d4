/** Statistics: how many downloads, with which results, how many bytes and from which sites, over a time range. */

import { useMemo, useState } from "preact/hooks";
import { api, call, type Job, type Schemas } from "../api";
import { formatBytes, formatCount, formatDuration, siteOf, toSeconds } from "../format";
import { Plot, type Series } from "../plot";
import { ErrorBox, Page, Select, useLoaded } from "../ui";
import { toWords } from "../words";

type Summary = Schemas["SummarizeJobsResponse"];
type Bucket = Schemas["SummarizeJobsResponseBucket"];

// Range and width of a section, in seconds.
const RANGES: Record<string, [number, number]> = {
  day: [86400, 3600],
  week: [7 * 86400, 6 * 3600],
  month: [30 * 86400, 86400],
};
const CHOICES = [
  ["day", "Last 24 hours"],
  ["week", "Last 7 days"],
  ["month", "Last 30 days"],
] as const;
// Sites are counted among the newest downloads of the range.
const PAGE_SIZE = 500;
const MAX_JOBS = 2000;
const MAX_BARS = 10;

export function StatisticsPage() {
  const [range, setRange] = useState<string>("day");
  const loaded = useLoaded(() => summarize(range), [range], 60);
  const jobs = useLoaded(() => listJobs(range), [range]);
  const summary = loaded.value;
  return (
    <Page title="Statistics" actions={<Select label="Range" value={range} options={CHOICES} onChange={setRange} />}>
      {loaded.error && <ErrorBox error={loaded.error} onRetry={loaded.reload} />}
      {!summary && !loaded.error && <p class="empty">Counting…</p>}
      {summary && <Totals total={summary.total ?? {}} />}
      {summary && <Plots series={summary.series ?? []} />}
      {summary && <Bars title="Failures by reason" counts={toCounts(summary.total?.errorCounts)} name={toWords} />}
      {jobs.error && <ErrorBox error={jobs.error} onRetry={jobs.reload} />}
      {jobs.value && (
        <Bars
          title={jobs.value.length === MAX_JOBS ? `Downloads by site, of the newest ${formatCount(MAX_JOBS)}` : "Downloads by site"}
          counts={countSites(jobs.value)}
          name={(site) => site}
        />
      )}
    </Page>
  );
}

function rangeOf(name: string): { startTime: string; seconds: number; step: number } {
  const [seconds, step] = RANGES[name] ?? [86400, 3600];
  // Sections begin at whole multiples, so that they stay where they are from one request to the next.
  const start = Math.ceil((Date.now() / 1000 - seconds) / step) * step;
  return { startTime: new Date(start * 1000).toISOString(), seconds, step };
}

function summarize(range: string): Promise<Summary> {
  const { startTime, step } = rangeOf(range);
  return call(api.GET("/v1/jobs:summarize", { params: { query: { startTime, step: `${step}s` } } }));
}

async function listJobs(range: string): Promise<Job[]> {
  const { startTime } = rangeOf(range);
  const jobs: Job[] = [];
  let pageToken = "";
  do {
    const query = { filter: `create_time >= "${startTime}"`, pageSize: PAGE_SIZE, pageToken };
    const page = await call(api.GET("/v1/jobs", { params: { query } }));
    jobs.push(...(page.jobs ?? []));
    pageToken = page.nextPageToken ?? "";
  } while (pageToken && jobs.length < MAX_JOBS);
  return jobs.slice(0, MAX_JOBS);
}

function Totals({ total }: { total: Bucket }) {
  const counts = toCounts(total.stateCounts);
  const of = (state: string) => counts.find(([name]) => name === state)?.[1] ?? 0;
  const all = counts.reduce((sum, [, count]) => sum + count, 0);
  const decided = of("SUCCEEDED") + of("FAILED");
  const facts: [string, string][] = [
    ["Downloads", formatCount(all)],
    ["Finished", formatCount(of("SUCCEEDED"))],
    ["Failed", formatCount(of("FAILED"))],
    ["Success", decided ? `${Math.round((100 * of("SUCCEEDED")) / decided)} %` : "–"],
    ["Received", formatBytes(total.downloadedBytes ?? "0")],
    ["Median time", formatDuration(toSeconds(total.latencyP50)) || "–"],
    ["95 % within", formatDuration(toSeconds(total.latencyP95)) || "–"],
  ];
  return (
    <dl class="totals">
      {facts.map(([name, value]) => (
        <div key={name} class="card">
          <dt>{name}</dt>
          <dd class="figures">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Plots({ series }: { series: Bucket[] }) {
  const plots = useMemo(() => {
    const times = series.map((bucket) => Date.parse(bucket.startTime ?? "") / 1000);
    const count = (state: string) => series.map((bucket) => Number(bucket.stateCounts?.[state] ?? 0));
    const results: Series[] = [
      { label: "Finished", color: "good", values: count("SUCCEEDED") },
      { label: "Failed", color: "bad", values: count("FAILED") },
      { label: "Cancelled", color: "muted", values: count("CANCELLED") },
    ];
    const bytes: Series[] = [
      { label: "Received", color: "accent", values: series.map((bucket) => Number(bucket.downloadedBytes ?? 0)) },
    ];
    return { times, results, bytes };
  }, [series]);
  return (
    <div class="plots">
      <Plot title="Downloads by result" times={plots.times} series={plots.results} format={(value) => formatCount(Math.round(value))} />
      <Plot title="Bytes received" times={plots.times} series={plots.bytes} format={(value) => formatBytes(value)} />
    </div>
  );
}

interface BarsProps {
  title: string;
  counts: [string, number][];
  name: (key: string) => string;
}

/** Bars of the greatest counts; what is left is one more. */
function Bars({ title, counts, name }: BarsProps) {
  const sorted = [...counts].sort(([, a], [, b]) => b - a);
  const rest = sorted.slice(MAX_BARS).reduce((sum, [, count]) => sum + count, 0);
  const shown: [string, number][] = sorted.slice(0, MAX_BARS).map(([key, count]) => [name(key), count]);
  if (rest) shown.push(["Others", rest]);
  const greatest = Math.max(1, ...shown.map(([, count]) => count));
  return (
    <section class="card" aria-label={title}>
      <h2>{title}</h2>
      {shown.length === 0 && <p class="empty">None in this time.</p>}
      <ul class="bars">
        {shown.map(([label, count]) => (
          <li key={label}>
            <span class="bar-label">{label}</span>
            <span class="bar-track" aria-hidden="true">
              <span style={{ width: `${(100 * count) / greatest}%` }} />
            </span>
            <span class="figures">{formatCount(count)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function toCounts(counts: Record<string, string | number> | undefined): [string, number][] {
  return Object.entries(counts ?? {}).map(([name, count]) => [name, Number(count)]);
}

function countSites(jobs: Job[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const job of jobs) counts.set(siteOf(job.url), (counts.get(siteOf(job.url)) ?? 0) + 1);
  return [...counts];
}
