/** One job: what it does now, its files, player and transcript, and what happened so far. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { attempt } from "../announcer";
import { ApiError, type Artifact, api, BASE, call, helpOf, idOf, type Job, reasonOf, saveFile, type Schemas } from "../api";
import { NO_FILTER } from "../board";
import { formatBytes, formatClockTime, formatCount, formatSeconds, siteOf, toSeconds } from "../format";
import { JobActions } from "../jobActions";
import { JobList, JobProgress, useBoard } from "../jobList";
import { Player } from "../player";
import { goTo } from "../router";
import { useSession } from "../session";
import { openStream } from "../stream";
import { Transcript } from "../transcript";
import { Badge, Button, ErrorBox, Page, Time, useLoaded } from "../ui";
import {
  countDownloads,
  describeJob,
  describeState,
  describeWait,
  isExpanding,
  remedyOf,
  titleOf,
  toWords,
} from "../words";

type Message = Schemas["WatchJobResponse"];
type Event = { time: string; text: string };

const MAX_EVENTS = 200;
const TEXT_FILE = /\.(?:srt|vtt|txt)$/i;

export function JobPage({ id }: { id: string }) {
  const { job, events, error, reopen } = useJob(id);
  if (error instanceof ApiError && error.status === 404) {
    return (
      <Page title="Not found">
        <p>This download does not exist any more, or belongs to someone else.</p>
        <p>
          <a href="#/jobs">All downloads</a>
        </p>
      </Page>
    );
  }
  return (
    <Page
      title={job ? titleOf(job) : "Download"}
      actions={job && <JobActions job={job} onDone={reopen} onDeleted={() => goTo("jobs")} />}
    >
      {error && <ErrorBox error={error} onRetry={reopen} />}
      {!job && !error && <p class="empty">Loading…</p>}
      {job && <JobDetails job={job} events={events} />}
    </Page>
  );
}

/** Return the job *id*, kept up to date by its stream, and what has happened since the page was opened. */
function useJob(id: string) {
  const [job, setJob] = useState<Job>();
  const [events, setEvents] = useState<Event[]>([]);
  const [error, setError] = useState<Error>();
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    setError(undefined);
    return openStream<Message>(`v1/jobs/${encodeURIComponent(id)}:watch`, {
      onMessage(message) {
        const { snapshot, progress, stateChange } = message;
        if (snapshot?.job) setJob(snapshot.job);
        else if (progress) setJob((old) => old && { ...old, progress });
        else if (stateChange) setJob((old) => old && applyChange(old, stateChange));
        const text = describeMessage(message);
        if (text) setEvents((old) => addEvent(old, { time: message.eventTime ?? "", text }));
        return !snapshot?.terminal;
      },
      onFailure: setError,
    });
  }, [id, turn]);
  return { job, events, error, reopen: () => setTurn(turn + 1) };
}

function applyChange(job: Job, change: NonNullable<Message["stateChange"]>): Job {
  const { state, wait, error, nextAttemptTime, attemptCount } = change;
  const { progress: _, wait: __, error: ___, ...rest } = job;
  return {
    ...rest,
    ...(state ? { state } : {}),
    ...(wait ? { wait } : {}),
    ...(error ? { error } : {}),
    ...(nextAttemptTime ? { nextAttemptTime } : {}),
    ...(attemptCount ? { attemptCount } : {}),
    ...(state === "RUNNING" && job.progress ? { progress: job.progress } : {}),
  };
}

function describeMessage({ snapshot, progress, stateChange }: Message): string {
  if (snapshot?.job) return describeJob(snapshot.job).word;
  if (stateChange) {
    const wait = describeWait(stateChange.wait);
    return [describeState(stateChange.state).word, wait, stateChange.error?.message].filter(Boolean).join(": ");
  }
  if (progress) return [describeJob({ url: "", state: "RUNNING", progress }).word, progress.detail].filter(Boolean).join(": ");
  return "";
}

/** Return *events* with *event*, unless it says what the last one says. */
function addEvent(events: Event[], event: Event): Event[] {
  return events.at(-1)?.text === event.text ? events : [...events, event].slice(-MAX_EVENTS);
}

function JobDetails({ job, events }: { job: Job; events: Event[] }) {
  const { word, tone } = describeJob(job);
  const wait = describeWait(job.wait);
  return (
    <>
      <p class="url">
        <a href={job.url} rel="noreferrer noopener" target="_blank">
          {job.url}
        </a>
      </p>
      <section class="card" aria-label="State">
        <p class="row">
          <span role="status">
            <Badge tone={tone}>{word}</Badge>
          </span>
          {wait && <span>{wait}</span>}
          {job.state === "RUNNING" && job.progress?.detail && <span class="meta">{job.progress.detail}</span>}
        </p>
        {(job.state === "RUNNING" || isExpanding(job)) && <JobProgress job={job} />}
        {job.wait?.until && (
          <p class="meta">
            Until about <Time value={job.wait.until} />
          </p>
        )}
        {job.error && <JobError error={job.error} job={job} />}
        {job.warnings && job.warnings.length > 0 && <Warnings warnings={job.warnings} />}
      </section>
      <Files job={job} />
      {job.kind === "EXPANSION" && <Children job={job} />}
      <Facts job={job} />
      <Attempts job={job} />
      <Events events={events} />
    </>
  );
}

function JobError({ error, job }: { error: Schemas["Status"]; job: Job }) {
  const reason = reasonOf(error);
  const remedy = remedyOf(reason);
  return (
    <div class={job.state === "FAILED" ? "error-box" : "notice-box"}>
      <p>
        {error.message} <code>{reason}</code>
      </p>
      {remedy && <p>{remedy}</p>}
      {helpOf(error).map((link) => (
        <p key={link.url}>
          <a href={link.url} rel="noreferrer noopener" target="_blank">
            {link.description}
          </a>
        </p>
      ))}
      {job.state === "RETRYING" && (
        <p class="meta">
          Next attempt: <Time value={job.nextAttemptTime} />
        </p>
      )}
    </div>
  );
}

function Warnings({ warnings }: { warnings: Schemas["Warning"][] }) {
  return (
    <div class="notice-box">
      <h2>Different from the request</h2>
      <ul>
        {warnings.map((warning, index) => (
          <li key={index}>
            {warning.message || toWords(warning.reason)} <code>{warning.reason}</code>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Files({ job }: { job: Job }) {
  const files = job.artifacts ?? [];
  const media = files.find((file) => file.kind === "VIDEO" || file.kind === "AUDIO");
  const subtitles = files.filter((file) => file.kind === "SUBTITLE" && TEXT_FILE.test(file.fileName ?? ""));
  const [plays, setPlays] = useState(false);
  const [seek, setSeek] = useState<{ seconds: number }>();
  const { authenticated } = useSession();
  if (!files.length) return null;
  const play = (seconds: number) => {
    setPlays(true);
    setSeek({ seconds });
  };
  return (
    <section class="card" aria-label="Files">
      <div class="section-head">
        <h2>Files</h2>
        <span class="row">
          {media && !plays && (
            <Button kind="primary" onClick={() => setPlays(true)}>
              Play
            </Button>
          )}
          {!authenticated && files.length > 1 && (
            <a class="button button-plain" href={`${BASE}api/v1/jobs/${idOf(job.name)}/archive`} download>
              All as zip
            </a>
          )}
        </span>
      </div>
      {media && plays && <Player media={media} subtitles={subtitles} title={titleOf(job)} seek={seek} />}
      <ul class="files">
        {files.map((file) => (
          <File key={file.name} file={file} />
        ))}
      </ul>
      {subtitles.length > 0 && <Transcript files={subtitles} onSeek={media && play} />}
    </section>
  );
}

function File({ file }: { file: Artifact }) {
  const details = [toWords(file.kind), file.languageCode, formatBytes(file.sizeBytes)].filter(Boolean).join(" · ");
  return (
    <li>
      <span>
        <span class="file-name">{file.fileName}</span>
        <span class="meta figures">{details}</span>
      </span>
      <Button onClick={() => attempt(() => saveFile(file))}>
        Save<span class="visually-hidden"> {file.fileName}</span>
      </Button>
    </li>
  );
}

/** The jobs of a playlist. */
function Children({ job }: { job: Job }) {
  const filter = useMemo(() => ({ ...NO_FILTER, parent: job.name ?? "" }), [job.name]);
  const board = useBoard(filter);
  const { entryCount = 0, skippedCount = 0 } = job.expansion ?? {};
  return (
    <section class="children" aria-label="Downloads of the playlist">
      <div class="section-head">
        <h2>Downloads of the playlist</h2>
        <p class="meta figures">
          <span>{countDownloads(board.total)}</span>
          {entryCount > 0 && <span>{formatCount(entryCount)} entries at the site</span>}
          {skippedCount > 0 && <span>{formatCount(skippedCount)} skipped</span>}
        </p>
      </div>
      <JobList board={board} label="Downloads of the playlist" empty="No download has been created yet." />
    </section>
  );
}

function Facts({ job }: { job: Job }) {
  const { media, got } = job;
  const facts: [string, unknown][] = [
    ["Site", media?.extractor || siteOf(job.url)],
    ["Uploader", media?.uploader],
    ["Duration", formatSeconds(toSeconds(got?.duration ?? media?.duration))],
    ["Picture", got?.height ? `${got.width} × ${got.height}, ${got.videoCodec ?? ""}` : ""],
    ["Sound", got?.audioCodec],
    ["Created", job.createTime && <Time value={job.createTime} />],
    ["Started", job.startTime && <Time value={job.startTime} />],
    ["Ended", job.endTime && <Time value={job.endTime} />],
    ["Deleted by itself", job.expireTime && <Time value={job.expireTime} />],
    ["Schedule", job.schedule && <a href="#/schedules">{idOf(job.schedule)}</a>],
    ["Playlist", job.parentJob && <a href={`#/jobs/${idOf(job.parentJob)}`}>Open</a>],
    ["Batch", job.batchId && <a href={`#/jobs?batch=${encodeURIComponent(job.batchId)}`}>Show all of it</a>],
    ["Id", <code key="id">{idOf(job.name)}</code>],
  ];
  return (
    <section class="card" aria-label="Facts">
      <h2>Facts</h2>
      <dl class="facts">
        {facts
          .filter(([, value]) => value)
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value as string}</dd>
            </div>
          ))}
      </dl>
    </section>
  );
}

function Attempts({ job }: { job: Job }) {
  const path = { job: idOf(job.name) };
  const loaded = useLoaded(() => call(api.GET("/v1/jobs/{job}/attempts", { params: { path } })), [job.name, job.revision]);
  const attempts = loaded.value?.attempts ?? [];
  if (!attempts.length) return null;
  return (
    <section class="card" aria-label="Attempts">
      <h2>Attempts</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of attempts">
        <table>
          <thead>
            <tr>
              <th scope="col">Number</th>
              <th scope="col">Result</th>
              <th scope="col">Started</th>
              <th scope="col">Ended</th>
              <th scope="col">Received</th>
              <th scope="col">Fetcher</th>
              <th scope="col">Failure</th>
            </tr>
          </thead>
          <tbody>
            {attempts.map((each) => (
              <tr key={each.name}>
                <td>{idOf(each.name)}</td>
                <td>{toWords(each.state)}</td>
                <td>
                  <Time value={each.startTime} />
                </td>
                <td>
                  <Time value={each.endTime} />
                </td>
                <td>{formatBytes(each.downloadedBytes ?? "0")}</td>
                <td>{each.worker}</td>
                <td>{each.error?.message}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Events({ events }: { events: Event[] }) {
  return (
    <section class="card" aria-label="Events">
      <h2>Events since this page was opened</h2>
      <ol class="events">
        {events.map((event, index) => (
          <li key={index}>
            <span class="figures meta">{event.time && formatClockTime(event.time)}</span> <span>{event.text}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}
