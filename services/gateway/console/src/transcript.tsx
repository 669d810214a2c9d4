/** Transcript of a job: the text of a subtitle file, with search and copy. */

import { useMemo, useState } from "preact/hooks";
import { type Artifact, readText } from "./api";
import { formatSeconds } from "./format";
import { type Cue, parseCues, toTranscript } from "./subtitles";
import { CopyButton, ErrorBox, Select, TextField, useLoaded } from "./ui";

const MAX_BYTES = 8_000_000;
const MAX_LINES = 5000;

interface TranscriptProps {
  /** Subtitle files in a format that has text: SRT, WebVTT, TXT. */
  files: Artifact[];
  /** Called with the seconds of a line; absent if there is nothing to play. */
  onSeek?: ((seconds: number) => void) | undefined;
}

export function Transcript({ files, onSeek }: TranscriptProps) {
  const [name, setName] = useState(preferred(files)?.name ?? "");
  const [search, setSearch] = useState("");
  const file = files.find((each) => each.name === name) ?? files[0];
  const text = useLoaded(async () => (file ? readText(file, MAX_BYTES) : ""), [file?.name]);
  const cues = useMemo(() => parseCues(text.value ?? "", file?.mediaType ?? ""), [text.value, file]);
  const found = useMemo(() => filterCues(cues, search), [cues, search]);
  const options = files.map((each) => [each.name ?? "", `${each.languageCode || "?"} · ${each.fileName ?? ""}`] as const);
  return (
    <div class="transcript">
      <div class="row">
        <Select label="Transcript" value={file?.name ?? ""} options={options} onChange={setName} />
        <TextField label="Search in the transcript" type="search" value={search} onChange={setSearch} />
        <p role="status" class="count figures">
          {search.trim() ? `${found.length} of ${cues.length} lines` : `${cues.length} lines`}
        </p>
        <CopyButton label="Copy all" text={() => toTranscript(cues)} />
      </div>
      {text.error && <ErrorBox error={text.error} onRetry={text.reload} />}
      <ol class="lines" tabIndex={0} aria-label="Lines of the transcript">
        {found.slice(0, MAX_LINES).map((cue, index) => (
          <Line key={index} cue={cue} search={search.trim()} onSeek={onSeek} />
        ))}
      </ol>
      {found.length > MAX_LINES && <p class="meta">The first {MAX_LINES} lines. Search, or save the file.</p>}
    </div>
  );
}

interface LineProps {
  cue: Cue;
  search: string;
  onSeek?: ((seconds: number) => void) | undefined;
}

function Line({ cue, search, onSeek }: LineProps) {
  const { start, text } = cue;
  return (
    <li>
      {start !== undefined && onSeek && (
        <button type="button" class="link figures" onClick={() => onSeek(start)} aria-label={`Play from ${formatSeconds(Math.floor(start))}`}>
          {formatSeconds(Math.floor(start))}
        </button>
      )}
      {start !== undefined && !onSeek && <span class="figures meta">{formatSeconds(Math.floor(start))}</span>}
      <span>{highlight(text, search)}</span>
    </li>
  );
}

function filterCues(cues: Cue[], search: string): Cue[] {
  const wanted = search.trim().toLowerCase();
  return wanted ? cues.filter((cue) => cue.text.toLowerCase().includes(wanted)) : cues;
}

/** Return *text* with what matches *search* marked. */
function highlight(text: string, search: string) {
  if (!search) return text;
  const parts = text.split(new RegExp(`(${search.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})`, "gi"));
  return parts.map((part, index) => (index % 2 ? <mark key={index}>{part}</mark> : part));
}

/** Return the file that suits a reader: one with times, else the first. */
function preferred(files: Artifact[]): Artifact | undefined {
  return files.find((file) => file.fileName?.endsWith(".srt")) ?? files[0];
}
