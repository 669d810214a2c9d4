/** Health: what every service and process says of itself, checked every ten seconds. */

import { api, call, type Schemas } from "../api";
import { formatBytes, formatDuration, toSeconds } from "../format";
import { Badge, ErrorBox, Page, Time, useLoaded } from "../ui";
import type { Tone } from "../words";

type Component = Schemas["ReportHealthResponseComponent"];

const REFRESH_SECONDS = 10;
const STATUSES: Record<string, [string, Tone]> = {
  SERVING_STATUS_SERVING: ["Up", "good"],
  SERVING_STATUS_DEGRADED: ["Degraded", "warn"],
  SERVING_STATUS_NOT_SERVING: ["Down", "bad"],
};

export function HealthPage() {
  const loaded = useLoaded(() => call(api.GET("/health/detailed")), [], REFRESH_SECONDS);
  const report = loaded.value;
  return (
    <Page title="Health" actions={report && <StatusBadge status={report.status} />}>
      {loaded.error && <ErrorBox error={loaded.error} onRetry={loaded.reload} />}
      {!report && !loaded.error && <p class="empty">Checking…</p>}
      {report && (
        <>
          <section class="card" aria-label="Components">
            <h2>Components</h2>
            <ul class="components">
              {(report.components ?? []).map((component) => (
                <ComponentRow key={component.component} component={component} />
              ))}
            </ul>
          </section>
          <Processes processes={report.processes ?? []} />
        </>
      )}
    </Page>
  );
}

function StatusBadge({ status }: { status: string | undefined }) {
  const [word, tone] = STATUSES[status ?? ""] ?? ["Unknown", "neutral"];
  return <Badge tone={tone}>{word}</Badge>;
}

function ComponentRow({ component }: { component: Component }) {
  const { freeBytes, totalBytes, usedCount, totalCount } = component;
  const facts = [
    freeBytes === undefined ? "" : `${formatBytes(freeBytes)} free${totalBytes ? ` of ${formatBytes(totalBytes)}` : ""}`,
    usedCount === undefined ? "" : `${usedCount}${totalCount ? ` of ${totalCount}` : ""} in use`,
    formatDuration(toSeconds(component.latency)),
    component.version,
  ];
  return (
    <li>
      <span class="component-name">{component.component}</span>
      <StatusBadge status={component.status} />
      <span class="meta figures">{facts.filter(Boolean).join(" · ")}</span>
      {component.message && <span>{component.message}</span>}
      {component.remedy && <span class="remedy">{component.remedy}</span>}
      {component.expireTime && (
        <span class="meta">
          Expires: <Time value={component.expireTime} />
        </span>
      )}
    </li>
  );
}

function Processes({ processes }: { processes: Schemas["ReportHealthResponseProcess"][] }) {
  if (!processes.length) return null;
  return (
    <section class="card" aria-label="Processes">
      <h2>Processes</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of processes">
        <table>
          <thead>
            <tr>
              <th scope="col">Service</th>
              <th scope="col">Status</th>
              <th scope="col">Address</th>
              <th scope="col">Version</th>
              <th scope="col">Running for</th>
              <th scope="col">Memory</th>
            </tr>
          </thead>
          <tbody>
            {processes.map((process) => (
              <tr key={`${process.service} ${process.address} ${process.pid}`}>
                <td>{process.service}</td>
                <td>
                  <StatusBadge status={process.status} />
                </td>
                <td>{process.address}</td>
                <td>{process.version}</td>
                <td>{formatDuration(toSeconds(process.uptime))}</td>
                <td>{formatBytes(process.pssBytes ?? process.rssBytes)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
