/** Words for what the API says by names: states, stages, reasons for waiting, and remedies of errors. */

import type { Job, Schemas } from "./api";
import { formatCount } from "./format";

/** How a state looks: what needs attention differs from what runs, waits or is done. */
export type Tone = "running" | "waiting" | "good" | "bad" | "warn" | "neutral";

const STATES: Record<string, [string, Tone]> = {
  QUEUED: ["Waiting", "waiting"],
  RUNNING: ["Running", "running"],
  RETRYING: ["Retrying", "warn"],
  CANCELLING: ["Cancelling", "waiting"],
  SUCCEEDED: ["Finished", "good"],
  FAILED: ["Failed", "bad"],
  CANCELLED: ["Cancelled", "neutral"],
  PAUSED: ["Paused", "neutral"],
};

const STAGES: Record<string, string> = {
  PROBING: "Reading the page",
  WAITING: "Waiting for the site",
  DOWNLOADING: "Downloading",
  FETCHING_EXTRAS: "Fetching extras",
  POSTPROCESSING: "Processing",
  VERIFYING: "Verifying",
  UPLOADING: "Storing",
  EXPANDING: "Reading the list",
  RECORDING: "Recording",
};

const WAITS: Record<string, string> = {
  SCHEDULED: "Scheduled",
  IN_QUEUE: "In the queue",
  BACKOFF: "Waiting before the next attempt",
  SITE_BUSY: "The site has enough downloads at a time",
  SITE_PARKED: "The site blocks or throttles this server",
  QUOTA: "The key has enough downloads at a time",
  PAUSED: "Paused",
  NO_WORKER: "No fetcher is running",
  DISK_FULL: "Out of disk space",
  LIVE_NOT_BEGUN: "The event has not started",
  SAME_IN_PROGRESS: "The same download is running already",
  EGRESS_SPENT: "The traffic of today is used up",
  WORKER_LOST: "The fetcher does not answer",
};

// What a person can do. A reason that is missing here has only the server's message.
const REMEDIES: Record<string, string> = {
  URL_INVALID: "Check the address: it must start with http:// or https://.",
  URL_FORBIDDEN: "The server fetches from public addresses only, unless its operator allows others.",
  SITE_UNSUPPORTED: "Open the page of the video itself and copy its address.",
  SITE_FORBIDDEN: "This key or server may not use the site. Ask its operator.",
  MEDIA_NOT_FOUND: "The video was removed, or the address is incomplete.",
  MEDIA_LOGIN_REQUIRED: "The site shows this to members only. The operator can store cookies of an account.",
  MEDIA_GEO_BLOCKED: "The site blocks the region of this server.",
  MEDIA_DRM_PROTECTED: "Protected media cannot be downloaded.",
  MEDIA_NOT_LIVE_YET: "Choose “Wait and record” under Live, and submit it again.",
  MEDIA_IS_LIVE: "Choose “Record from now” under Live, and submit it again.",
  MEDIA_TOO_LARGE: "Choose a lower quality, or a clip.",
  MEDIA_TOO_LONG: "Choose a clip.",
  FORMAT_UNAVAILABLE: "Choose another quality or format: “Look at it first” shows what the site offers.",
  SUBTITLES_UNAVAILABLE: "Choose another language: “Look at it first” shows what the site offers.",
  CLIP_OUT_OF_RANGE: "Choose a start within the video.",
  UPSTREAM_THROTTLED: "The site limits how fast it may be asked. Retry later.",
  UPSTREAM_UNAVAILABLE: "The site did not answer. Retry later.",
  UPSTREAM_BLOCKED: "The site takes this server for a bot. The operator can add another egress or cookies.",
  UPSTREAM_STALLED: "The site sent too slowly. Retry later.",
  EXTRACTOR_FAILED: "The engine does not understand the site any more. The operator can upgrade yt-dlp.",
  VERIFICATION_FAILED: "What the site sent is damaged or incomplete. Retry.",
  POSTPROCESSING_FAILED: "Retry, or choose the format MKV, which needs no conversion.",
  WORKER_LOST: "The fetcher ended while it had this job. Retry.",
  ATTEMPT_TIMED_OUT: "The attempt took too long. Retry, or choose a lower quality.",
  JOB_CANCELLED: "Retry starts it again.",
  STORAGE_UNAVAILABLE: "The storage is full or does not answer. See Health, or ask the operator.",
  WORKER_DISK_FULL: "The disk of the fetcher is full. See Health, or ask the operator.",
  QUOTA_EXCEEDED: "The quota of this key is used up. See Keys for when it starts again.",
  RATE_LIMIT_EXCEEDED: "Too many calls in this minute. Wait a little.",
  PERMISSION_INSUFFICIENT: "This key may not do that. Sign in with another one.",
  STATE_CONFLICT: "Its state has changed in the meantime, so that this is not possible now.",
  ETAG_MISMATCH: "Someone else has changed it. Look at it again.",
  RECORDING_LOST: "The broadcast was over before the recording could be continued.",
  COOKIES_EXPIRED: "The cookies have expired. The operator can store new ones.",
  COOKIES_REFUSED: "The site has ended the session of the cookies. The operator can store new ones.",
  COOKIES_UNKNOWN: "There are no cookies of this name. The operator can store some.",
  DESTINATION_REFUSED: "Check the address and the credentials of the destination.",
};

const ENDED = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);

/** Return the word for a state, and how it looks. An unknown one is in progress, as the API says. */
export function describeState(state: string | undefined): { word: string; tone: Tone } {
  const [word, tone] = STATES[state ?? ""] ?? ["Running", "running"];
  return { word, tone };
}

/** Return what a job is doing, in a few words. */
export function describeJob(job: Job): { word: string; tone: Tone } {
  const state = describeState(job.state);
  if (isExpanding(job) && hasEnded(job)) return { word: "Downloading", tone: "running" };
  if (job.state === "RUNNING") return { ...state, word: STAGES[job.progress?.stage ?? ""] ?? "Starting" };
  if (job.state === "SUCCEEDED" && job.warnings?.length) return { ...state, word: "Finished with warnings" };
  return state;
}

/** Return why a job does not run; empty if it does, or if nobody knows. */
export function describeWait(wait: Schemas["Wait"] | undefined): string {
  if (!wait?.reason) return "";
  const words = WAITS[wait.reason] ?? wait.message ?? wait.reason;
  return wait.position && wait.reason === "IN_QUEUE" ? `${words}, number ${wait.position}` : words;
}

/** Return what a person can do about a failure; empty if nothing is known. */
export function remedyOf(reason: string): string {
  return REMEDIES[reason] ?? "";
}

export function hasEnded(job: Pick<Job, "state">): boolean {
  return ENDED.has(job.state ?? "");
}

/** Return whether *state*, by its name, is one in which a job has ended. */
export function isEndState(state: string): boolean {
  return ENDED.has(state);
}

/** Return whether *job* is a playlist that is being read, or whose jobs have not all ended. */
export function isExpanding(job: Job): boolean {
  if (job.kind !== "EXPANSION") return false;
  if (!hasEnded(job)) return job.state === "RUNNING";
  return Object.entries(job.progress?.jobCounts ?? {}).some(([state, count]) => count > 0 && !isEndState(state));
}

/** Return a count of downloads in words. */
export function countDownloads(count: number): string {
  return count === 1 ? "1 download" : `${formatCount(count)} downloads`;
}

/** Return the title of a job; its URL until the title is known. */
export function titleOf(job: Job): string {
  return job.media?.title || job.url || "Download";
}

/** Return a name in capitals as words: "JOB_CANCELLED" as "Job cancelled". */
export function toWords(name: string | undefined): string {
  const text = (name ?? "").replaceAll("_", " ").toLowerCase();
  return text.charAt(0).toUpperCase() + text.slice(1);
}
