/** Schedules: downloads at times of a cron expression. */

import { useState } from "preact/hooks";
import { attempt } from "../announcer";
import { api, call, idOf, randomUuid, type Schemas } from "../api";
import { siteOf } from "../format";
import { allows } from "../session";
import { Badge, Button, Checkbox, ConfirmButton, ErrorBox, IconButton, Page, TextField, Time, useLoaded } from "../ui";
import { toWords, type Tone } from "../words";

const PAGE_SIZE = 200;
const REFRESH_SECONDS = 15;
const TONES: Record<string, Tone> = { ENABLED: "running", PAUSED: "neutral", DISABLED: "bad" };

export function SchedulesPage() {
  const loaded = useLoaded(
    () => call(api.GET("/v1/schedules", { params: { query: { pageSize: PAGE_SIZE } } })),
    [],
    REFRESH_SECONDS,
  );
  const schedules = loaded.value?.schedules ?? [];
  return (
    <Page title="Schedules">
      {allows("DOWNLOAD") && <ScheduleForm onCreated={loaded.reload} />}
      {loaded.error && <ErrorBox error={loaded.error} onRetry={loaded.reload} />}
      {loaded.value && schedules.length === 0 && <p class="empty">No schedule downloads anything yet.</p>}
      <ul class="cards">
        {schedules.map((schedule) => (
          <ScheduleCard key={schedule.name} schedule={schedule} onChange={loaded.reload} />
        ))}
      </ul>
      {loaded.value?.nextPageToken && <p class="meta">The newest {PAGE_SIZE} schedules.</p>}
    </Page>
  );
}

function ScheduleForm({ onCreated }: { onCreated: () => Promise<void> }) {
  const [url, setUrl] = useState("");
  const [cron, setCron] = useState("@daily");
  const [zone, setZone] = useState(Intl.DateTimeFormat().resolvedOptions().timeZone);
  const [newOnly, setNewOnly] = useState(true);
  const [error, setError] = useState<Error>();
  const submit = async () => {
    setError(undefined);
    const body: Schemas["Schedule"] = {
      cron,
      timeZone: zone,
      skipOverlapping: true,
      jobTemplate: { url: url.trim() },
      ...(newOnly ? { newEntriesOnly: true } : {}),
    };
    try {
      await call(api.POST("/v1/schedules", { params: { query: { requestId: randomUuid() } }, body }));
    } catch (failure) {
      return setError(failure as Error);
    }
    setUrl("");
    await onCreated();
  };
  return (
    <form
      class="card"
      aria-label="New schedule"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <div class="grid">
        <TextField label="Address" type="url" required value={url} onChange={setUrl} />
        <TextField
          label="Times"
          required
          value={cron}
          list="times"
          hint="Cron (minute hour day month weekday), @daily, or @every 6h."
          onChange={setCron}
        />
        <TextField label="Time zone" value={zone} onChange={setZone} />
        <Checkbox label="A playlist or channel: only its new entries" checked={newOnly} onChange={setNewOnly} />
      </div>
      <datalist id="times">
        {["@hourly", "@daily", "@weekly", "@every 6h", "0 3 * * *", "30 6 * * 1-5"].map((time) => (
          <option key={time} value={time} />
        ))}
      </datalist>
      {error && <ErrorBox error={error} />}
      <Button kind="primary" type="submit">
        Create
      </Button>
    </form>
  );
}

function ScheduleCard({ schedule, onChange }: { schedule: Schemas["Schedule"]; onChange: () => Promise<void> }) {
  const id = idOf(schedule.name);
  const url = schedule.jobTemplate?.url ?? "";
  const title = siteOf(url) || url;
  const request = { params: { path: { schedule: id } }, body: {} };
  const run = async (action: () => Promise<unknown>, success: string) => {
    if (await attempt(action, success)) await onChange();
  };
  return (
    <li class="card">
      <div class="section-head">
        <h2>{title}</h2>
        {allows("DOWNLOAD") && (
          <span class="actions">
            <IconButton
              icon="retry"
              label={`Run now: ${title}`}
              onClick={() => run(() => call(api.POST("/v1/schedules/{schedule}:run", request)), "A download was created")}
            />
            {schedule.state === "ENABLED" ? (
              <IconButton
                icon="pause"
                label={`Pause: ${title}`}
                onClick={() => run(() => call(api.POST("/v1/schedules/{schedule}:pause", request)), "Paused")}
              />
            ) : (
              <IconButton
                icon="play"
                label={`Resume: ${title}`}
                onClick={() => run(() => call(api.POST("/v1/schedules/{schedule}:resume", request)), "Resumed")}
              />
            )}
            <ConfirmButton
              icon="delete"
              label={`Delete: ${title}`}
              question="Delete this schedule? Its downloads stay."
              confirm="Delete"
              onConfirm={() =>
                run(() => call(api.DELETE("/v1/schedules/{schedule}", { params: request.params })), "Deleted")
              }
            />
          </span>
        )}
      </div>
      <p class="url">{url}</p>
      <p class="meta">
        <Badge tone={TONES[schedule.state ?? ""] ?? "neutral"}>{toWords(schedule.state)}</Badge>
        <span>
          <code>{schedule.cron}</code> {schedule.timeZone}
        </span>
        <span>
          Next: <Time value={schedule.nextRunTime} />
        </span>
        {schedule.lastJob && <a href={`#/jobs/${idOf(schedule.lastJob)}`}>Last download</a>}
        {schedule.newEntriesOnly && <span>{schedule.seenEntryCount ?? 0} entries seen</span>}
      </p>
      {schedule.lastError && <p class="field-error">The last run created nothing: {schedule.lastError.message}</p>}
    </li>
  );
}
