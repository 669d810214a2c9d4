/** The list of jobs. Only the rows that are near the visible part of the page are in the document. */

import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { idOf, type Job } from "./api";
import { Board, type BoardFilter } from "./board";
import { formatBytes, formatSeconds, formatShortTime, siteOf, toSeconds } from "./format";
import { JobActions } from "./jobActions";
import { Badge, ErrorBox, ProgressBar } from "./ui";
import { countDownloads, describeJob, describeWait, isEndState, isExpanding, titleOf } from "./words";

// As in style.css: the rows of a list have one height.
const ROW_PX = 60;
const NARROW_ROW_PX = 102;
const NARROW = matchMedia("(max-width: 700px)");
// Rows above and below the visible part, so that the Tab key finds the next one.
const MARGIN_ROWS = 8;

/** Return the board of *filter*; the component is shown again with each change. */
export function useBoard(filter: BoardFilter): Board {
  const [, update] = useReducer((count: number, _: undefined) => count + 1, 0);
  const board = useMemo(() => new Board(filter, () => update(undefined)), [JSON.stringify(filter)]);
  useEffect(() => {
    board.open();
    return () => board.close();
  }, [board]);
  return board;
}

export function JobList({ board, empty, label }: { board: Board; empty: string; label: string }) {
  const list = useRef<HTMLOListElement>(null);
  const { rows, error, isLoaded } = board;
  const { start, end, height } = useVisibleRows(list, rows.length);
  useEffect(() => {
    if (isLoaded && end >= rows.length - MARGIN_ROWS) void board.loadMore();
  }, [end, rows.length, isLoaded]);
  return (
    <>
      {error && <ErrorBox error={error} onRetry={() => board.reload()} />}
      {isLoaded && rows.length === 0 && !error && <p class="empty">{empty}</p>}
      {!isLoaded && !error && <p class="empty">Loading…</p>}
      <ol
        class="jobs"
        ref={list}
        aria-label={label}
        style={{ paddingTop: `${start * height}px`, paddingBottom: `${Math.max(0, rows.length - end) * height}px` }}
      >
        {rows.slice(start, end).map((job, index) => (
          <Row key={job.name} job={job} position={start + index + 1} count={rows.length} />
        ))}
      </ol>
    </>
  );
}

function useVisibleRows(list: RefObject<HTMLOListElement | null>, count: number) {
  const [range, setRange] = useState({ start: 0, end: 30, height: NARROW.matches ? NARROW_ROW_PX : ROW_PX });
  useLayoutEffect(() => {
    const measure = () => {
      const height = NARROW.matches ? NARROW_ROW_PX : ROW_PX;
      const top = list.current?.getBoundingClientRect().top ?? 0;
      const start = Math.min(Math.max(0, Math.floor(-top / height) - MARGIN_ROWS), Math.max(0, count - 1));
      const end = Math.min(count, Math.ceil((innerHeight - top) / height) + MARGIN_ROWS);
      setRange((old) =>
        old.start === start && old.end === end && old.height === height ? old : { start, end, height },
      );
    };
    measure();
    addEventListener("scroll", measure, { passive: true });
    addEventListener("resize", measure);
    // What is above the list may grow and shrink.
    const resized = new ResizeObserver(measure);
    resized.observe(document.body);
    return () => {
      resized.disconnect();
      removeEventListener("scroll", measure);
      removeEventListener("resize", measure);
    };
  }, [count]);
  return { ...range, end: Math.min(range.end, count) };
}

interface RowProps {
  job: Job;
  position: number;
  count: number;
}

/** One row; drawn again only if its job or its position has changed. */
function Row({ job, position, count }: RowProps) {
  return useMemo(() => <RowContent job={job} position={position} count={count} />, [job, position, count]);
}

function RowContent({ job, position, count }: RowProps) {
  const { word, tone } = describeJob(job);
  const isActive = job.state === "RUNNING" || isExpanding(job);
  return (
    <li class="job" aria-setsize={count} aria-posinset={position}>
      <div class="job-main">
        <a class="job-title" href={`#/jobs/${idOf(job.name)}`}>
          {titleOf(job)}
        </a>
        <p class="meta">
          <span>{siteOf(job.url)}</span>
          <span>{formatShortTime(job.createTime)}</span>
          <span>{describeResult(job)}</span>
        </p>
      </div>
      <div class="job-state">
        <Badge tone={tone}>{word}</Badge>
        {isActive && <JobProgress job={job} />}
        {!isActive && <p class="meta">{describeDetail(job)}</p>}
      </div>
      <JobActions job={job} />
    </li>
  );
}

/** The progress of a running job, with what is unknown stated as unknown. */
export function JobProgress({ job }: { job: Job }) {
  const percent = job.progress?.percent;
  const text = describeProgress(job);
  return (
    <>
      <ProgressBar label={`Progress of ${titleOf(job)}`} percent={percent} text={text} />
      <p class="meta figures">{text}</p>
    </>
  );
}

/** Return the progress in words, e.g. "42 %, 12.3 of 29.1 MB, 2.4 MB/s, 0:07 left". */
export function describeProgress(job: Job): string {
  const progress = job.progress;
  if (!progress) return "Starting";
  const counts = Object.entries(progress.jobCounts ?? {});
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  const ended = counts.reduce((sum, [state, count]) => (isEndState(state) ? sum + count : sum), 0);
  const received = Number(progress.downloadedBytes ?? 0);
  const rate = Number(progress.bytesPerSecond ?? 0);
  const left = toSeconds(progress.eta);
  return [
    total ? `${ended} of ${total} done` : "",
    progress.percent === undefined ? "" : `${Math.floor(progress.percent)} %`,
    received ? describeBytes(received, progress.totalBytes, progress.stage) : "",
    rate ? `${formatBytes(rate)}/s` : "",
    left === undefined ? "" : `${formatSeconds(left)} left`,
  ]
    .filter(Boolean)
    .join(" · ");
}

function describeBytes(received: number, total: string | undefined, stage: string | undefined): string {
  if (total !== undefined) return `${formatBytes(received)} of ${formatBytes(total)}`;
  return stage === "DOWNLOADING" ? `${formatBytes(received)}, size unknown` : formatBytes(received);
}

function describeResult(job: Job): string {
  const files = job.artifacts ?? [];
  if (files.length) {
    const size = files.reduce((sum, file) => sum + Number(file.sizeBytes ?? 0), 0);
    const duration = formatSeconds(toSeconds(job.got?.duration));
    return [formatBytes(size), duration].filter(Boolean).join(" · ");
  }
  const jobs = job.expansion?.jobCount;
  return jobs ? countDownloads(jobs) : "";
}

function describeDetail(job: Job): string {
  if (job.state === "FAILED" || job.state === "RETRYING") return job.error?.message ?? "";
  return describeWait(job.wait);
}
