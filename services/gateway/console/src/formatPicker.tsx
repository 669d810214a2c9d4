/** What a URL contains, and the qualities that it offers: by a probe, before anything is downloaded. */

import { api, call, type Schemas } from "./api";
import { formatBytes, formatSeconds } from "./format";
import { Button, ErrorBox, useLoaded } from "./ui";

const MAX_ENTRIES_SHOWN = 20;

interface FormatPickerProps {
  url: string;
  quality: string;
  onPick: (quality: string) => void;
  onPickPlaylist: () => void;
  onClose: () => void;
}

export function FormatPicker({ url, quality, onPick, onPickPlaylist, onClose }: FormatPickerProps) {
  const probe = useLoaded(() => call(api.GET("/api/v1/info", { params: { query: { url } } })), [url]);
  const info = probe.value;
  return (
    <section class="probe" aria-label="What the address contains" aria-busy={!info && !probe.error}>
      {!info && !probe.error && <p role="status">Reading the page…</p>}
      {probe.error && <ErrorBox error={probe.error} onRetry={probe.reload} />}
      {info && (
        <>
          <h2>{info.title || url}</h2>
          <p class="meta">
            <span>{info.uploader}</span>
            <span>{formatSeconds(info.duration)}</span>
            <span>{info.extractor}</span>
            {info.live_status === "LIVE" && <span>live now: choose a recording under More options</span>}
          </p>
          {info.entries?.length ? (
            <Entries info={info} onPickPlaylist={onPickPlaylist} />
          ) : (
            <Qualities info={info} quality={quality} onPick={onPick} />
          )}
          <p class="meta">
            {info.subtitles?.length
              ? `Subtitles: ${info.subtitles.map((track) => track.language).join(", ")}`
              : "No subtitles"}
          </p>
        </>
      )}
      <Button onClick={onClose}>Close</Button>
    </section>
  );
}

interface QualitiesProps {
  info: Schemas["GetInfoResponse"];
  quality: string;
  onPick: (quality: string) => void;
}

function Qualities({ info, quality, onPick }: QualitiesProps) {
  const qualities = info.qualities ?? [];
  if (!qualities.length) return <p>The site does not say which qualities it offers; “Best” takes the best of them.</p>;
  return (
    <fieldset class="choices">
      <legend>Quality</legend>
      {qualities.map((offered) => (
        <label key={offered} class="choice">
          <input type="radio" name="offered" checked={offered === quality} onChange={() => onPick(offered)} />
          <span>{offered}</span>
          <span class="meta">{describeFormats(info, offered)}</span>
        </label>
      ))}
    </fieldset>
  );
}

function Entries({ info, onPickPlaylist }: { info: Schemas["GetInfoResponse"]; onPickPlaylist: () => void }) {
  const entries = info.entries ?? [];
  const count = info.entry_count || entries.length;
  return (
    <>
      <p>
        A list of {count} {count === 1 ? "video" : "videos"}. <Button onClick={onPickPlaylist}>Download all</Button>
      </p>
      <ol class="entries">
        {entries.slice(0, MAX_ENTRIES_SHOWN).map((entry) => (
          <li key={entry.url}>
            {entry.title || entry.url} <span class="meta">{formatSeconds(entry.duration)}</span>
          </li>
        ))}
      </ol>
      {count > MAX_ENTRIES_SHOWN && <p class="meta">and {count - MAX_ENTRIES_SHOWN} more</p>}
    </>
  );
}

function describeFormats(info: Schemas["GetInfoResponse"], quality: string): string {
  const formats = (info.formats ?? []).filter((format) => format.quality === quality);
  const sizes = formats.map((format) => format.size_bytes).filter((size) => size !== undefined);
  const codecs = [...new Set(formats.map((format) => format.video_codec.split(".")[0] ?? ""))].filter(
    (codec) => codec && codec !== "unknown",
  );
  return [codecs.join(", "), sizes.length ? formatBytes(Math.max(...sizes)) : "size unknown"].filter(Boolean).join(" · ");
}
