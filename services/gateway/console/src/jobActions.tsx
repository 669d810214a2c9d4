/** What a user may do with a job: by its state, and by the level of the key. */

import { announce, attempt } from "./announcer";
import { api, call, idOf, type Job } from "./api";
import { allows } from "./session";
import { ConfirmButton, type IconName, IconButton } from "./ui";
import { hasEnded, titleOf } from "./words";

interface Action {
  icon: IconName;
  verb: string;
  applies: (job: Job) => boolean;
  run: (id: string) => Promise<unknown>;
  done: string;
}

const isRecording = (job: Job) => job.state === "RUNNING" && job.progress?.stage === "RECORDING";
const path = (id: string) => ({ params: { path: { job: id } }, body: {} });

const ACTIONS: Action[] = [
  {
    icon: "stop",
    verb: "Stop and keep the recording",
    applies: (job) => isRecording(job) && !job.recordingStopTime,
    run: (id) => call(api.POST("/v1/jobs/{job}:stopRecording", path(id))),
    done: "The recording stops, and is kept",
  },
  {
    icon: "pause",
    verb: "Pause",
    applies: (job) => ["QUEUED", "RETRYING", "RUNNING"].includes(job.state ?? "") && !isRecording(job),
    run: (id) => call(api.POST("/v1/jobs/{job}:pause", path(id))),
    done: "Paused",
  },
  {
    icon: "play",
    verb: "Resume",
    applies: (job) => job.state === "PAUSED",
    run: (id) => call(api.POST("/v1/jobs/{job}:resume", path(id))),
    done: "Resumed",
  },
  {
    icon: "retry",
    verb: "Retry",
    applies: (job) => job.state === "FAILED" || job.state === "CANCELLED",
    run: (id) => call(api.POST("/v1/jobs/{job}:retry", path(id))),
    done: "Queued again",
  },
  {
    icon: "cancel",
    verb: "Cancel",
    applies: (job) => !hasEnded(job) && job.state !== "CANCELLING",
    run: (id) => call(api.POST("/v1/jobs/{job}:cancel", path(id))),
    done: "Cancelled",
  },
];

/** The buttons of *job*; *onDone* is called after each action, *onDeleted* after its deletion. */
export function JobActions({ job, onDone, onDeleted }: { job: Job; onDone?: () => void; onDeleted?: () => void }) {
  if (!allows("DOWNLOAD")) return null;
  const id = idOf(job.name);
  const title = titleOf(job);
  const run = async (action: Action) => {
    if (await attempt(() => action.run(id), `${action.done}: ${title}`)) onDone?.();
  };
  const remove = async () => {
    const deleted = await attempt(() => call(api.DELETE("/v1/jobs/{job}", { params: { path: { job: id } } })));
    if (!deleted) return;
    announce(`Deleted: ${title}`);
    onDeleted?.();
  };
  return (
    <span class="actions">
      {ACTIONS.filter((action) => action.applies(job)).map((action) => (
        <IconButton key={action.verb} icon={action.icon} label={`${action.verb}: ${title}`} onClick={() => run(action)} />
      ))}
      {hasEnded(job) && (
        <ConfirmButton
          icon="delete"
          label={`Delete: ${title}`}
          question="Delete this download and its files?"
          confirm="Delete"
          onConfirm={remove}
        />
      )}
    </span>
  );
}
