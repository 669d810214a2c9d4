/** Values as text for people: sizes, rates, durations, times. */

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const SHORT = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const COUNT = new Intl.NumberFormat();

/** Return a size, e.g. "12.3 MB"; empty if it is unknown. */
export function formatBytes(value: string | number | undefined): string {
  let size = Number(value);
  if (value === undefined || !Number.isFinite(size)) return "";
  let unit = 0;
  while (size >= 1000 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size.toFixed(unit && size < 100 ? 1 : 0)} ${UNITS[unit]}`;
}

/** Return seconds as a clock time, e.g. "1:02:03"; empty if they are unknown. */
export function formatSeconds(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value) || value < 0) return "";
  const total = Math.round(value);
  const [hours, minutes, seconds] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const pad = (part: number) => String(part).padStart(2, "0");
  return hours ? `${hours}:${pad(minutes)}:${pad(seconds)}` : `${minutes}:${pad(seconds)}`;
}

/** Return the seconds of a duration of the API, e.g. of "3.5s"; undefined without one. */
export function toSeconds(duration: string | undefined): number | undefined {
  const seconds = Number.parseFloat(duration ?? "");
  return Number.isFinite(seconds) ? seconds : undefined;
}

/** Return a duration in words, e.g. "3 min"; empty if it is unknown. */
export function formatDuration(seconds: number | undefined): string {
  if (seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** Return seconds of "90", "1:30" or "1:02:03"; undefined if *text* is none of them. */
export function parseClock(text: string): number | undefined {
  if (!/^\d{1,6}(?:\.\d{1,3})?$|^(?:\d{1,3}:)?\d{1,2}:\d{2}(?:\.\d{1,3})?$/.test(text.trim())) return undefined;
  return text.trim().split(":").reduce((total, part) => total * 60 + Number(part), 0);
}

export function formatTime(time: string | undefined): string {
  return time ? DATE_TIME.format(new Date(time)) : "";
}

export function formatShortTime(time: string | undefined): string {
  return time ? SHORT.format(new Date(time)) : "";
}

export function formatClockTime(time: string | number): string {
  return TIME.format(new Date(time));
}

export function formatCount(value: number | string | undefined): string {
  return COUNT.format(Number(value ?? 0));
}

/** Return the site of a URL: its host without "www.". */
export function siteOf(url: string | undefined): string {
  try {
    return new URL(url ?? "").host.replace(/^www\./, "");
  } catch {
    return "";
  }
}
