/** Keys and what they have used of their quotas: one's own for everyone, all for administrators. */

import { useState } from "preact/hooks";
import { attempt } from "../announcer";
import { api, call, idOf, randomUuid, type Schemas } from "../api";
import { formatBytes, formatCount } from "../format";
import { allows, useSession } from "../session";
import {
  Badge,
  Button,
  ConfirmButton,
  ErrorBox,
  IconButton,
  Page,
  ProgressBar,
  SecretDialog,
  Select,
  TextField,
  Time,
  useLoaded,
} from "../ui";
import { toWords, type Tone } from "../words";

const PAGE_SIZE = 200;
const TONES: Record<string, Tone> = { ACTIVE: "good", DISABLED: "neutral", EXPIRED: "warn", DELETED: "neutral" };
const LEVELS = [
  ["READ_ONLY", "Read only"],
  ["DOWNLOAD", "Download"],
] as const;
const HIGH_LEVELS = [...LEVELS, ["ADMIN", "Administrator"], ["FULL_ACCESS", "Full access"]] as const;
const DAY_SECONDS = 86400;

export function KeysPage() {
  const { authenticated } = useSession();
  return (
    <Page title="Keys">
      {!authenticated && (
        <p class="notice-box">
          This server asks for no key: everyone who can connect to it has full access. Keys count with REELHAUL_AUTH=keys.
        </p>
      )}
      {authenticated && (
        <section class="card" aria-label="Your usage">
          <h2>Your usage</h2>
          <UsageMeters apiKey="me" />
        </section>
      )}
      {allows("ADMIN") && <KeyList />}
    </Page>
  );
}

function KeyList() {
  const loaded = useLoaded(() => call(api.GET("/v1/apiKeys", { params: { query: { pageSize: PAGE_SIZE } } })), []);
  const [secret, setSecret] = useState("");
  const keys = loaded.value?.apiKeys ?? [];
  return (
    <>
      <KeyForm onCreated={loaded.reload} onSecret={setSecret} />
      {loaded.error && <ErrorBox error={loaded.error} onRetry={loaded.reload} />}
      {loaded.value && keys.length === 0 && <p class="empty">There are no keys.</p>}
      <ul class="cards">
        {keys.map((key) => (
          <KeyCard key={key.name} apiKey={key} onChange={loaded.reload} onSecret={setSecret} />
        ))}
      </ul>
      {loaded.value?.nextPageToken && <p class="meta">The newest {PAGE_SIZE} keys.</p>}
      {secret && <SecretDialog title="The key" secret={secret} onClose={() => setSecret("")} />}
    </>
  );
}

interface FormProps {
  onCreated: () => Promise<void>;
  onSecret: (secret: string) => void;
}

function KeyForm({ onCreated, onSecret }: FormProps) {
  const [name, setName] = useState("");
  const [level, setLevel] = useState<string>("DOWNLOAD");
  const [days, setDays] = useState("");
  const [error, setError] = useState<Error>();
  const submit = async () => {
    setError(undefined);
    const body = {
      displayName: name,
      permission: `PERMISSION_LEVEL_${level}`,
      ...(days ? { ttl: `${Number(days) * DAY_SECONDS}s` } : {}),
    } as Schemas["ApiKey"];
    try {
      const query = { requestId: randomUuid() };
      onSecret((await call(api.POST("/v1/apiKeys", { params: { query }, body }))).keyString ?? "");
    } catch (failure) {
      return setError(failure as Error);
    }
    setName("");
    await onCreated();
  };
  return (
    <form
      class="card"
      aria-label="New key"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <div class="grid">
        <TextField label="Name" required maxLength={100} value={name} onChange={setName} />
        <Select
          label="Level"
          value={level}
          options={allows("FULL_ACCESS") ? HIGH_LEVELS : LEVELS}
          onChange={setLevel}
        />
        <TextField
          label="Days until it ends"
          type="number"
          min={1}
          max={3660}
          hint="Empty is never."
          value={days}
          onChange={setDays}
        />
      </div>
      {error && <ErrorBox error={error} />}
      <Button kind="primary" type="submit">
        Create
      </Button>
    </form>
  );
}

interface CardProps {
  apiKey: Schemas["ApiKey"];
  onChange: () => Promise<void>;
  onSecret: (secret: string) => void;
}

function KeyCard({ apiKey, onChange, onSecret }: CardProps) {
  const path = { api_key: idOf(apiKey.name) };
  const title = apiKey.displayName || apiKey.keyPrefix || path.api_key;
  const [showsUsage, setShowsUsage] = useState(false);
  const run = async (action: () => Promise<unknown>, success: string) => {
    if (await attempt(action, success)) await onChange();
  };
  const update = (disabled: boolean) =>
    call(
      api.PATCH("/v1/apiKeys/{api_key}", {
        params: { path, query: { updateMask: "disabled" } },
        body: { disabled } as Schemas["ApiKeyUpdate"],
      }),
    );
  const rotate = async () => {
    onSecret((await call(api.POST("/v1/apiKeys/{api_key}:rotate", { params: { path }, body: {} }))).keyString ?? "");
  };
  return (
    <li class="card">
      <div class="section-head">
        <h2>{title}</h2>
        <span class="actions">
          <ConfirmButton
            label="New key string"
            question="Give this key a new string? The old one stops working now."
            confirm="Create it"
            onConfirm={() => attempt(rotate)}
          />
          {apiKey.disabled ? (
            <IconButton icon="play" label={`Enable: ${title}`} onClick={() => run(() => update(false), "Enabled")} />
          ) : (
            <IconButton icon="pause" label={`Disable: ${title}`} onClick={() => run(() => update(true), "Disabled")} />
          )}
          <ConfirmButton
            icon="delete"
            label={`Delete: ${title}`}
            question="Delete this key? It can be restored for 30 days with the command line."
            confirm="Delete"
            onConfirm={() => run(() => call(api.DELETE("/v1/apiKeys/{api_key}", { params: { path } })), "Deleted")}
          />
        </span>
      </div>
      <p class="meta">
        <Badge tone={TONES[apiKey.state ?? ""] ?? "neutral"}>{toWords(apiKey.state)}</Badge>
        <span>{toWords(apiKey.permission?.replace("PERMISSION_LEVEL_", ""))}</span>
        <code>{apiKey.keyPrefix}…</code>
        <span>{idOf(apiKey.tenant)}</span>
        <span>
          Used: <Time value={apiKey.lastUseTime} />
        </span>
        {apiKey.expireTime && (
          <span>
            Ends: <Time value={apiKey.expireTime} />
          </span>
        )}
      </p>
      <details onToggle={(event) => setShowsUsage((event.currentTarget as HTMLDetailsElement).open)}>
        <summary>Usage</summary>
        {showsUsage && <UsageMeters apiKey={path.api_key} />}
      </details>
    </li>
  );
}

function UsageMeters({ apiKey }: { apiKey: string }) {
  const path = { api_key: apiKey };
  const loaded = useLoaded(() => call(api.GET("/v1/apiKeys/{api_key}/usage", { params: { path } })), [apiKey]);
  const metrics = loaded.value?.metrics ?? [];
  if (loaded.error) return <ErrorBox error={loaded.error} onRetry={loaded.reload} />;
  return (
    <ul class="meters">
      {metrics.map((metric) => (
        <UsageMeter key={metric.quotaMetric} metric={metric} />
      ))}
    </ul>
  );
}

function UsageMeter({ metric }: { metric: Schemas["UsageMetric"] }) {
  const name = toWords(metric.quotaMetric);
  const format = metric.quotaMetric?.includes("bytes") ? formatBytes : formatCount;
  const [used, limit] = [Number(metric.used ?? 0), Number(metric.limit ?? 0)];
  // A limit of each job is not used up.
  const isPerJob = metric.quotaMetric?.endsWith("per_job");
  const text = [isPerJob ? "" : format(used), limit < 0 ? "no limit" : `at most ${format(limit)}`].filter(Boolean).join(", ");
  return (
    <li>
      <span>{name}</span>
      <span class="meta figures">{text}</span>
      {limit > 0 && !isPerJob && <ProgressBar label={name} percent={Math.min(100, (100 * used) / limit)} text={text} />}
    </li>
  );
}
