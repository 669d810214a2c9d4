/** The form that creates downloads: one URL, or one in each line for a batch. */

import { useRef, useState } from "preact/hooks";
import { announce } from "./announcer";
import { ApiError, api, call, randomUuid, type Schemas } from "./api";
import { parseClock } from "./format";
import { FormatPicker } from "./formatPicker";
import { Button, Checkbox, ErrorBox, Field, Select, TextField } from "./ui";

type Options = Schemas["CreateDownloadRequest"];
type Failures = Schemas["BatchCreateDownloadsResponse"]["failed"];

const QUALITIES = [
  ["best", "Best"],
  ["2160p", "2160p (4K)"],
  ["1440p", "1440p"],
  ["1080p", "1080p"],
  ["720p", "720p"],
  ["480p", "480p"],
  ["360p", "360p"],
  ["worst", "Smallest"],
] as const;
const FORMATS = [
  ["", "Automatic"],
  ["mp4", "MP4"],
  ["webm", "WebM"],
  ["mkv", "MKV"],
  ["mp3", "MP3 (audio)"],
  ["m4a", "M4A (audio)"],
  ["opus", "Opus (audio)"],
  ["flac", "FLAC (audio)"],
] as const;
const AUDIO = ["mp3", "m4a", "opus", "flac"];
const LIVE = [
  ["", "Do not record"],
  ["record", "Record from now"],
  ["wait", "Wait and record"],
] as const;
const MAX_URLS = 500;

interface Draft {
  quality: string;
  format: string;
  subtitles: boolean;
  languages: string;
  start: string;
  end: string;
  live: string;
  time: string;
  playlist: boolean;
  entries: string;
  thumbnail: boolean;
}

const EMPTY: Draft = {
  quality: "best",
  format: "",
  subtitles: false,
  languages: "",
  start: "",
  end: "",
  live: "",
  time: "",
  playlist: false,
  entries: "",
  thumbnail: false,
};

export function SubmitForm() {
  const [text, setText] = useState("");
  const [draft, setDraft] = useState(EMPTY);
  const [error, setError] = useState<Error>();
  const [failures, setFailures] = useState<Failures>();
  const [probed, setProbed] = useState("");
  const [busy, setBusy] = useState(false);
  // The same request has the same id, so that a second try after a broken connection creates nothing twice.
  const attempt = useRef({ body: "", id: "" });
  const urls = text.split(/\s+/).filter(Boolean);
  const change = (changes: Partial<Draft>) => setDraft({ ...draft, ...changes });

  const submit = async () => {
    if (busy || !urls.length) return;
    setError(undefined);
    setFailures(undefined);
    setBusy(true);
    try {
      const options = toOptions(draft);
      const body = JSON.stringify([urls, options]);
      if (attempt.current.body !== body) attempt.current = { body, id: randomUuid() };
      const failed = await create(urls, options, attempt.current.id);
      attempt.current = { body: "", id: "" };
      setText(failed.map((failure) => failure.url ?? "").join("\n"));
      setFailures(failed);
      setProbed("");
      const added = urls.length - failed.length;
      announce(added === 1 ? "Download added" : `${added} downloads added`);
    } catch (failure) {
      setError(failure as Error);
    } finally {
      setBusy(false);
    }
  };

  return (
    <form
      class="card submit"
      aria-label="New download"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <Field label="Address of a video" hint="Several lines are a batch. Enter submits, Shift and Enter begin a new line.">
        {(attributes) => (
          <textarea
            {...attributes}
            rows={Math.min(8, Math.max(1, text.split("\n").length))}
            value={text}
            placeholder="https://"
            spellcheck={false}
            autocomplete="off"
            onInput={(event) => setText(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
              event.preventDefault();
              void submit();
            }}
          />
        )}
      </Field>
      <div class="row">
        <Select label="Quality" value={draft.quality} options={QUALITIES} onChange={(quality) => change({ quality })} />
        <Select label="Format" value={draft.format} options={FORMATS} onChange={(format) => change({ format })} />
        <Checkbox label="Subtitles" checked={draft.subtitles} onChange={(subtitles) => change({ subtitles })} />
        <span class="row row-end">
          <Button onClick={() => setProbed(urls[0] ?? "")}>Look at it first</Button>
          <Button kind="primary" type="submit" busy={busy}>
            {urls.length > 1 ? `Download ${urls.length}` : "Download"}
          </Button>
        </span>
      </div>
      <MoreOptions draft={draft} change={change} error={error} />
      {error && <ErrorBox error={error} />}
      {failures && failures.length > 0 && <BatchFailures failures={failures} />}
      {probed && (
        <FormatPicker
          key={probed}
          url={probed}
          quality={draft.quality}
          onPick={(quality) => change({ quality, format: "" })}
          onPickPlaylist={() => change({ playlist: true })}
          onClose={() => setProbed("")}
        />
      )}
    </form>
  );
}

interface MoreOptionsProps {
  draft: Draft;
  change: (changes: Partial<Draft>) => void;
  error: Error | undefined;
}

function MoreOptions({ draft, change, error }: MoreOptionsProps) {
  const message = (...names: string[]) => fieldError(error, names);
  return (
    <details>
      <summary>More options</summary>
      <div class="grid">
        <TextField
          label="Languages of subtitles"
          value={draft.languages}
          hint="For example en, de; empty is the original."
          error={message("subtitle_languages")}
          onChange={(languages) => change({ languages })}
        />
        <TextField
          label="Clip from"
          value={draft.start}
          placeholder="1:30"
          error={message("start_seconds")}
          onChange={(start) => change({ start })}
        />
        <TextField
          label="Clip to"
          value={draft.end}
          placeholder="2:00"
          error={message("end_seconds")}
          onChange={(end) => change({ end })}
        />
        <Select label="Live" value={draft.live} options={LIVE} onChange={(live) => change({ live })} />
        <TextField
          label="Start at"
          type="datetime-local"
          value={draft.time}
          error={message("schedule_time")}
          onChange={(time) => change({ time })}
        />
        <TextField
          label="Entries of a playlist"
          type="number"
          min={1}
          max={10000}
          value={draft.entries}
          hint="At most; empty is 100."
          error={message("max_entries")}
          onChange={(entries) => change({ entries })}
        />
        <Checkbox label="The whole playlist" checked={draft.playlist} onChange={(playlist) => change({ playlist })} />
        <Checkbox label="Thumbnail" checked={draft.thumbnail} onChange={(thumbnail) => change({ thumbnail })} />
      </div>
    </details>
  );
}

function BatchFailures({ failures }: { failures: NonNullable<Failures> }) {
  return (
    <div class="error-box" role="alert">
      <p>{failures.length === 1 ? "One address was" : `${failures.length} addresses were`} not accepted:</p>
      <ul>
        {failures.map((failure) => (
          <li key={failure.index}>
            <span class="url">{failure.url}</span>: {failure.error?.message}
          </li>
        ))}
      </ul>
    </div>
  );
}

async function create(urls: string[], options: Omit<Options, "url">, requestId: string): Promise<NonNullable<Failures>> {
  const [url = ""] = urls;
  if (urls.length === 1) {
    await call(api.POST("/api/v1/download", { body: { ...options, url, request_id: requestId } }));
    return [];
  }
  if (urls.length > MAX_URLS) {
    throw new ApiError(0, "", `A batch has at most ${MAX_URLS} addresses, not ${urls.length}.`);
  }
  const body = { urls, options: options as Schemas["DownloadOptions"], partial: true, request_id: requestId };
  const response = await call(api.POST("/api/v1/batch", { body }));
  return response.failed ?? [];
}

/** Return the options of a request. Throws ApiError if a field cannot be read. */
function toOptions(draft: Draft): Omit<Options, "url"> {
  const languages = draft.languages.split(/[\s,]+/).filter(Boolean);
  const isAudio = AUDIO.includes(draft.format);
  return {
    ...(draft.quality !== "best" && !isAudio ? { quality: draft.quality as never } : {}),
    ...(draft.format ? { format: draft.format as never } : {}),
    ...(draft.subtitles || languages.length ? { subtitles: true, subtitle_formats: ["srt", "vtt", "txt"] as never } : {}),
    ...(languages.length ? { subtitle_languages: languages } : {}),
    ...toClip(draft),
    ...(draft.live ? { live: draft.live as never } : {}),
    ...(draft.time ? { schedule_time: new Date(draft.time).toISOString() } : {}),
    ...(draft.playlist ? { playlist: true } : {}),
    ...(draft.playlist && draft.entries ? { max_entries: Number(draft.entries) } : {}),
    ...(draft.thumbnail ? { thumbnail: true } : {}),
  };
}

function toClip(draft: Draft): Pick<Options, "start_seconds" | "end_seconds"> {
  const clip: Pick<Options, "start_seconds" | "end_seconds"> = {};
  for (const [name, text] of [["start_seconds", draft.start], ["end_seconds", draft.end]] as const) {
    if (!text.trim()) continue;
    const seconds = parseClock(text);
    if (seconds === undefined) {
      const description = "Write seconds, or minutes and seconds as in 1:30.";
      throw new ApiError(0, "", "The clip has a time that cannot be read.", [{ field: name, description }]);
    }
    clip[name] = seconds;
  }
  return clip;
}

function fieldError(error: Error | undefined, names: string[]): string | undefined {
  if (!(error instanceof ApiError)) return undefined;
  return error.fields.find(({ field }) => names.some((name) => field.includes(name)))?.description;
}
