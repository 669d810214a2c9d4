/**
 * The jobs of a list, kept up to date: pages of ListJobs, changes by one WatchJobs stream, and the progress of running
 * jobs by one request in an interval.
 */

import { type ApiError, api, call, idOf, type Job, type Schemas } from "./api";
import { openStream } from "./stream";
import { isExpanding } from "./words";

const PAGE_SIZE = 200;
const MAX_ROWS = 10000;
const MAX_RUNNING = 500;
// Two units in this interval are a quarter of what a READ_ONLY key has (docs/limits.md).
const FAST_MS = 1500;
const SLOW_MS = 3000;
// After a failure, for example when the units of this minute are used up.
const FAILED_MS = 10000;
// Above so many running jobs their progress is requested less often.
const MANY = 50;

export interface BoardFilter {
  states: readonly string[];
  /** Text in the title or the URL. */
  text: string;
  site: string;
  batch: string;
  parent: string;
}

export const NO_FILTER: BoardFilter = { states: [], text: "", site: "", batch: "", parent: "" };

/** Return *filter* in the filter language of ListJobs. */
export function toExpression(filter: BoardFilter): string {
  const terms: string[] = [];
  if (filter.states.length) terms.push(`(${filter.states.map((state) => `state = ${state}`).join(" OR ")})`);
  if (filter.text) terms.push(`(url = ${quote(`*${filter.text}*`)} OR media.title = ${quote(`*${filter.text}*`)})`);
  if (filter.site) terms.push(`url = ${quote(`*${filter.site}*`)}`);
  if (filter.batch) terms.push(`batch_id = ${quote(filter.batch)}`);
  if (filter.parent) terms.push(`parent_job = ${quote(filter.parent)}`);
  return terms.join(" AND ");
}

function quote(text: string): string {
  return `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

export class Board {
  /** The jobs that are shown, newest first. */
  rows: Job[] = [];
  /** Number of jobs that match, as of the last list; 10000 means that or more. */
  total = 0;
  isLoaded = false;
  error: Error | undefined;

  private readonly jobs = new Map<string, Job>();
  private readonly expression: string;
  private nextPage = "";
  private isLoadingMore = false;
  private closeStream: () => void = () => undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private frame = 0;
  private needsOrder = false;
  private turn = 0;
  private closed = false;

  constructor(
    private readonly filter: BoardFilter,
    private readonly onChange: () => void,
  ) {
    this.expression = toExpression(filter);
  }

  /** Open the stream and load the first page. */
  open(): void {
    const query = this.expression ? `?filter=${encodeURIComponent(this.expression)}` : "";
    let isFirst = true;
    this.closeStream = openStream<Schemas["WatchJobsResponse"]>(`v1/jobs:watch${query}`, {
      onMessage: (message) => {
        // Every change is in the stream or in a list that is requested after its first message.
        if (isFirst || message.reset) void this.reload();
        isFirst = false;
        if (message.job) this.apply(message.job, message.deleted ?? false);
      },
      onFailure: (error: ApiError) => this.fail(error),
    });
    this.timer = setTimeout(() => void this.poll(), FAST_MS);
  }

  close(): void {
    this.closed = true;
    this.closeStream();
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
  }

  get hasMore(): boolean {
    return this.nextPage !== "" && this.jobs.size < MAX_ROWS;
  }

  /** Load the first page again. */
  async reload(): Promise<void> {
    await this.load("");
  }

  /** Load the next page, if there is one. */
  async loadMore(): Promise<void> {
    if (this.isLoadingMore || !this.hasMore) return;
    this.isLoadingMore = true;
    await this.load(this.nextPage);
    this.isLoadingMore = false;
  }

  private async load(pageToken: string): Promise<void> {
    const query = { filter: this.expression, pageSize: PAGE_SIZE, pageToken };
    try {
      const page = await call(api.GET("/v1/jobs", { params: { query } }));
      if (this.closed) return;
      if (!pageToken) {
        this.jobs.clear();
        this.total = Number(page.totalSize ?? 0);
      }
      for (const job of page.jobs ?? []) this.merge(job);
      this.nextPage = page.nextPageToken ?? "";
      this.isLoaded = true;
      this.error = undefined;
    } catch (error) {
      if (this.closed) return;
      this.error = error as Error;
    }
    this.notify(true);
  }

  private apply(job: Job, deleted: boolean): void {
    const { states } = this.filter;
    const isKnown = this.jobs.has(job.name ?? "");
    if (deleted || (states.length && !states.includes(job.state ?? ""))) {
      if (this.jobs.delete(job.name ?? "")) this.total -= 1;
      this.notify(true);
      return;
    }
    if (!isKnown) this.total += 1;
    this.merge(job);
    this.notify(!isKnown);
  }

  /** Keep *job* unless a newer version of it is known. */
  private merge(job: Job): void {
    const name = job.name ?? "";
    const known = this.jobs.get(name);
    if (known && Number(known.revision ?? 0) > Number(job.revision ?? 0)) return;
    // The stream has no progress: what is known of the same attempt stays until the next request.
    const keepsProgress = known?.progress && !job.progress && job.state === known.state;
    this.jobs.set(name, keepsProgress ? { ...job, progress: known.progress } : job);
  }

  /** Request the progress of running jobs, and of playlists whose jobs run. */
  private async poll(): Promise<void> {
    const running = this.rows.filter((job) => job.state === "RUNNING" && job.kind !== "EXPANSION");
    let delay = running.length > MANY ? SLOW_MS : FAST_MS;
    if (!document.hidden) {
      try {
        await Promise.all([running.length ? this.pollRunning() : undefined, this.pollPlaylist()]);
        this.notify(false);
      } catch {
        // The stream tells whether the server is there.
        delay = FAILED_MS;
      }
    }
    if (this.closed) return;
    this.timer = setTimeout(() => void this.poll(), delay);
  }

  private async pollRunning(): Promise<void> {
    const query = { status: ["RUNNING" as const], page_size: MAX_RUNNING };
    const { jobs = [] } = await call(api.GET("/api/v1/jobs", { params: { query } }));
    for (const download of jobs) {
      const name = `jobs/${download.job_id ?? ""}`;
      const known = this.jobs.get(name);
      if (known?.state === "RUNNING") this.jobs.set(name, { ...known, progress: toProgress(download) });
    }
  }

  /** Request the progress of one of the playlists whose jobs run, of each in turn. */
  private async pollPlaylist(): Promise<void> {
    const playlists = this.rows.filter(isExpanding);
    const playlist = playlists[this.turn++ % playlists.length];
    if (!playlist) return;
    const job = await call(api.GET("/v1/jobs/{job}", { params: { path: { job: idOf(playlist.name) } } }));
    if (this.jobs.has(job.name ?? "")) this.merge(job);
  }

  private fail(error: Error): void {
    this.error = error;
    this.notify(false);
  }

  /** Show the changes in the next frame: several at a time are one. */
  private notify(reorders: boolean): void {
    if (reorders) this.needsOrder = true;
    if (this.closed || this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.rows = this.needsOrder ? this.sorted() : this.rows.map((job) => this.jobs.get(job.name ?? "") ?? job);
      this.needsOrder = false;
      this.onChange();
    });
  }

  private sorted(): Job[] {
    const rows = [...this.jobs.values()];
    // Times of equal precision compare as texts; ids of one moment (UUIDv7) are in the order of creation.
    const key = (job: Job) => `${job.createTime ?? ""} ${job.name ?? ""}`;
    return rows
      .map((job) => [key(job), job] as const)
      .sort(([a], [b]) => (a < b ? 1 : -1))
      .map(([, job]) => job);
  }
}

function toProgress(download: Schemas["Download"]): Schemas["Progress"] {
  const { progress_percent, total_bytes, eta_seconds } = download;
  return {
    ...(download.stage ? { stage: download.stage } : {}),
    ...(progress_percent === undefined ? {} : { percent: Number(progress_percent) }),
    ...(total_bytes === undefined ? {} : { totalBytes: String(total_bytes) }),
    ...(eta_seconds === undefined ? {} : { eta: `${eta_seconds}s` }),
    downloadedBytes: String(download.downloaded_bytes ?? 0),
    bytesPerSecond: String(Math.round(Number(download.speed ?? 0))),
    detail: download.detail ?? "",
  };
}
