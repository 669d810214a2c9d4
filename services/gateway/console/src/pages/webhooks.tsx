/** Webhooks: endpoints that are told of finished downloads, and the log of what was sent to them. */

import { useState } from "preact/hooks";
import { attempt } from "../announcer";
import { api, call, idOf, randomUuid, type Schemas } from "../api";
import { allows } from "../session";
import {
  Badge,
  Button,
  ConfirmButton,
  ErrorBox,
  IconButton,
  Page,
  SecretDialog,
  TextField,
  Time,
  useLoaded,
} from "../ui";
import { toWords, type Tone } from "../words";

const REFRESH_SECONDS = 10;
const DELIVERIES = 50;
const STATE_TONES: Record<string, Tone> = { ENABLED: "running", DISABLED: "neutral", SUSPENDED: "bad" };
const DELIVERY_TONES: Record<string, Tone> = { PENDING: "waiting", SUCCEEDED: "good", FAILED: "bad" };

export function WebhooksPage() {
  const loaded = useLoaded(
    () => call(api.GET("/v1/webhooks", { params: { query: { pageSize: 100 } } })),
    [],
    REFRESH_SECONDS,
  );
  const [secret, setSecret] = useState("");
  const webhooks = loaded.value?.webhooks ?? [];
  return (
    <Page title="Webhooks">
      {allows("DOWNLOAD") && <WebhookForm onCreated={loaded.reload} onSecret={setSecret} />}
      {loaded.error && <ErrorBox error={loaded.error} onRetry={loaded.reload} />}
      {loaded.value && webhooks.length === 0 && <p class="empty">No endpoint is told of finished downloads yet.</p>}
      <ul class="cards">
        {webhooks.map((webhook) => (
          <WebhookCard key={webhook.name} webhook={webhook} onChange={loaded.reload} onSecret={setSecret} />
        ))}
      </ul>
      {secret && <SecretDialog title="Secret of the webhook" secret={secret} onClose={() => setSecret("")} />}
    </Page>
  );
}

interface FormProps {
  onCreated: () => Promise<void>;
  onSecret: (secret: string) => void;
}

function WebhookForm({ onCreated, onSecret }: FormProps) {
  const [url, setUrl] = useState("");
  const [types, setTypes] = useState("");
  const [error, setError] = useState<Error>();
  const submit = async () => {
    setError(undefined);
    const eventTypes = types.split(/[\s,]+/).filter(Boolean);
    const body: Schemas["Webhook"] = { url: url.trim(), ...(eventTypes.length ? { eventTypes } : {}) };
    try {
      const query = { requestId: randomUuid() };
      onSecret((await call(api.POST("/v1/webhooks", { params: { query }, body }))).secret ?? "");
    } catch (failure) {
      return setError(failure as Error);
    }
    setUrl("");
    await onCreated();
  };
  return (
    <form
      class="card"
      aria-label="New webhook"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <div class="grid">
        <TextField label="Address" type="url" required placeholder="https://" value={url} onChange={setUrl} />
        <TextField
          label="Events"
          value={types}
          hint="For example job.succeeded, job.failed; empty is all."
          onChange={setTypes}
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
  webhook: Schemas["Webhook"];
  onChange: () => Promise<void>;
  onSecret: (secret: string) => void;
}

function WebhookCard({ webhook, onChange, onSecret }: CardProps) {
  const id = idOf(webhook.name);
  const url = webhook.url;
  const request = { params: { path: { webhook: id } }, body: {} };
  const [turn, setTurn] = useState(0);
  const run = async (action: () => Promise<unknown>, success: string) => {
    if (await attempt(action, success)) await onChange();
  };
  const update = (disabled: boolean) =>
    call(
      api.PATCH("/v1/webhooks/{webhook}", {
        params: { path: { webhook: id }, query: { updateMask: "disabled" } },
        body: { disabled } as Schemas["WebhookUpdate"],
      }),
    );
  const test = async () => {
    const delivery = await call(api.POST("/v1/webhooks/{webhook}:test", request));
    setTurn(turn + 1);
    if (delivery.state !== "SUCCEEDED") throw new Error(delivery.error?.message ?? `The endpoint answered ${delivery.httpStatus}`);
  };
  const rotate = async () => {
    onSecret((await call(api.POST("/v1/webhooks/{webhook}:rotateSecret", request))).secret ?? "");
  };
  return (
    <li class="card">
      <div class="section-head">
        <h2 class="url">{url}</h2>
        {allows("DOWNLOAD") && (
          <span class="actions">
            <Button onClick={() => attempt(test, "The endpoint has accepted the test")}>
              Test<span class="visually-hidden"> {url}</span>
            </Button>
            <ConfirmButton
              label="New secret"
              question="Create a new secret? The old one signs for 24 more hours."
              confirm="Create it"
              onConfirm={() => attempt(rotate)}
            />
            {webhook.state === "ENABLED" ? (
              <IconButton icon="pause" label={`Disable: ${url}`} onClick={() => run(() => update(true), "Disabled")} />
            ) : (
              <IconButton icon="play" label={`Enable: ${url}`} onClick={() => run(() => update(false), "Enabled")} />
            )}
            <ConfirmButton
              icon="delete"
              label={`Delete: ${url}`}
              question="Delete this webhook and its log?"
              confirm="Delete"
              onConfirm={() => run(() => call(api.DELETE("/v1/webhooks/{webhook}", { params: request.params })), "Deleted")}
            />
          </span>
        )}
      </div>
      <p class="meta">
        <Badge tone={STATE_TONES[webhook.state ?? ""] ?? "neutral"}>{toWords(webhook.state)}</Badge>
        <span>{webhook.eventTypes?.join(", ") || "All events"}</span>
        {webhook.filter && <code>{webhook.filter}</code>}
      </p>
      <Deliveries webhook={id} turn={turn} />
    </li>
  );
}

function Deliveries({ webhook, turn }: { webhook: string; turn: number }) {
  const loaded = useLoaded(
    () =>
      call(
        api.GET("/v1/webhooks/{webhook}/deliveries", {
          params: { path: { webhook }, query: { pageSize: DELIVERIES } },
        }),
      ),
    [webhook, turn],
    REFRESH_SECONDS,
  );
  const deliveries = loaded.value?.deliveries ?? [];
  const redeliver = async (delivery: string) => {
    const path = { webhook, delivery };
    const sent = await attempt(
      () => call(api.POST("/v1/webhooks/{webhook}/deliveries/{delivery}:redeliver", { params: { path }, body: {} })),
      "Sent again",
    );
    if (sent) await loaded.reload();
  };
  return (
    <details>
      <summary>Log</summary>
      {loaded.error && <ErrorBox error={loaded.error} onRetry={loaded.reload} />}
      {loaded.value && deliveries.length === 0 && <p class="empty">Nothing was sent yet.</p>}
      {deliveries.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Log of deliveries">
          <table>
            <thead>
              <tr>
                <th scope="col">Event</th>
                <th scope="col">Result</th>
                <th scope="col">Time</th>
                <th scope="col">Tries</th>
                <th scope="col">Answer</th>
                <th scope="col">
                  <span class="visually-hidden">Action</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {deliveries.map((delivery) => (
                <tr key={delivery.name}>
                  <td>{delivery.eventType}</td>
                  <td>
                    <Badge tone={DELIVERY_TONES[delivery.state ?? ""] ?? "neutral"}>{toWords(delivery.state)}</Badge>
                  </td>
                  <td>
                    <Time value={delivery.createTime} />
                  </td>
                  <td>{delivery.attemptCount ?? 0}</td>
                  <td>{[delivery.httpStatus || "", delivery.error?.message ?? ""].filter(Boolean).join(" ") || "–"}</td>
                  <td>
                    {allows("DOWNLOAD") && (
                      <IconButton
                        icon="retry"
                        label={`Send again: ${delivery.eventType} ${idOf(delivery.name)}`}
                        onClick={() => redeliver(idOf(delivery.name))}
                      />
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}
