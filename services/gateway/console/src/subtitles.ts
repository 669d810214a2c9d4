/** Cues of subtitle files: SubRip, WebVTT, and plain transcripts without times. */

export interface Cue {
  /** Seconds; undefined in a transcript without times. */
  start: number | undefined;
  end: number | undefined;
  text: string;
}

const TIMES = /^\s*((?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})\s+-->\s+((?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})/;
const TAG = /<\/?[a-z][^<>]*>|<\d[\d:.]*>/gi;
const ENTITIES: Record<string, string> = { "&lt;": "<", "&gt;": ">", "&amp;": "&", "&nbsp;": " " };

/** Return the cues of *text*, whose media type is *mediaType*, in the order of the file. */
export function parseCues(text: string, mediaType: string): Cue[] {
  const blocks = text.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n").split(/\n{2,}/);
  if (mediaType.startsWith("text/plain")) {
    return blocks.filter((block) => block.trim()).map((block) => ({ start: undefined, end: undefined, text: block }));
  }
  return blocks.flatMap((block) => {
    const lines = block.split("\n");
    const index = lines.findIndex((line) => TIMES.test(line));
    const times = TIMES.exec(lines[index] ?? "");
    if (!times) return [];
    const content = lines.slice(index + 1).join("\n").replace(TAG, "");
    const plain = content.replace(/&(?:lt|gt|amp|nbsp);/g, (entity) => ENTITIES[entity] ?? entity).trim();
    return plain ? [{ start: toSeconds(times[1]!), end: toSeconds(times[2]!), text: plain }] : [];
  });
}

function toSeconds(time: string): number {
  return time.replace(",", ".").split(":").reduce((total, part) => total * 60 + Number(part), 0);
}

/** Return the text of *cues*, without times. */
export function toTranscript(cues: Cue[]): string {
  return cues.map((cue) => cue.text).join("\n");
}
