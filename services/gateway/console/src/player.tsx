/** Player of a video or audio file, with the subtitles of the job as tracks. */

import { useEffect, useRef, useState } from "preact/hooks";
import { type Artifact, readText, signLink } from "./api";
import { parseCues } from "./subtitles";
import { ErrorBox } from "./ui";

const MAX_SUBTITLE_BYTES = 8_000_000;

interface PlayerProps {
  media: Artifact;
  subtitles: Artifact[];
  title: string;
  /** Where to go on: set by a click on a line of the transcript. */
  seek: { seconds: number } | undefined;
}

export function Player({ media, subtitles, title, seek }: PlayerProps) {
  const element = useRef<HTMLVideoElement>(null);
  const [url, setUrl] = useState("");
  const [error, setError] = useState<Error>();
  const renewed = useRef(false);
  const load = () =>
    signLink(media, "inline").then(setUrl, (failure: Error) => setError(failure));

  useEffect(() => void load(), [media.name]);
  useEffect(() => {
    if (seek && element.current) {
      element.current.currentTime = seek.seconds;
      void element.current.play().catch(() => undefined);
    }
  }, [seek]);

  // A link ends after some hours: a new one continues where the old one has failed.
  const onError = () => {
    if (renewed.current) {
      setError(new Error(`The browser cannot play the file, or cannot reach ${new URL(url).host}. Save it instead.`));
      return;
    }
    renewed.current = true;
    const seconds = element.current?.currentTime ?? 0;
    void load().then(() => {
      if (element.current && seconds) element.current.currentTime = seconds;
    });
  };

  return (
    <div class="player">
      {error && <ErrorBox error={error} />}
      {url && (
        <video
          ref={element}
          src={url}
          controls
          playsInline
          preload="metadata"
          aria-label={title}
          onLoadedMetadata={() => {
            if (seek && element.current) element.current.currentTime = seek.seconds;
            void addTracks(element.current, subtitles);
          }}
          onError={onError}
        />
      )}
    </div>
  );
}

/** Add *subtitles* to *video* as text tracks: their text needs the key, which a track element cannot send. */
async function addTracks(video: HTMLVideoElement | null, subtitles: Artifact[]): Promise<void> {
  if (!video || video.textTracks.length) return;
  for (const artifact of onePerLanguage(subtitles)) {
    const text = await readText(artifact, MAX_SUBTITLE_BYTES).catch(() => "");
    const cues = parseCues(text, artifact.mediaType ?? "");
    if (!cues.length) continue;
    const track = video.addTextTrack("subtitles", artifact.languageCode, artifact.languageCode);
    for (const { start, end, text: line } of cues) {
      if (start === undefined || end === undefined || end <= start) continue;
      // Cues may have tags of WebVTT: what the site wrote is text.
      track.addCue(new VTTCue(start, end, line.replaceAll("&", "&amp;").replaceAll("<", "&lt;")));
    }
  }
}

/** Return one file with times of each language. */
function onePerLanguage(subtitles: Artifact[]): Artifact[] {
  const byLanguage = new Map<string, Artifact>();
  for (const artifact of subtitles) {
    const isTimed = /\.(?:vtt|srt)$/i.test(artifact.fileName ?? "");
    if (isTimed && !byLanguage.has(artifact.languageCode ?? "")) byLanguage.set(artifact.languageCode ?? "", artifact);
  }
  return [...byLanguage.values()];
}
