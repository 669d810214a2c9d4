/** The frame of all pages: navigation, the state of the connection, and which page is shown. */

import { useEffect, useState } from "preact/hooks";
import { Announcer } from "./announcer";
import { api, call } from "./api";
import { useConnection } from "./connection";
import { DownloadsPage } from "./pages/downloads";
import { HealthPage } from "./pages/health";
import { JobPage } from "./pages/job";
import { KeysPage } from "./pages/keys";
import { SchedulesPage } from "./pages/schedules";
import { SignInPage, signIn } from "./pages/signIn";
import { StatisticsPage } from "./pages/statistics";
import { WebhooksPage } from "./pages/webhooks";
import { type Route, useRoute } from "./router";
import { allows, beginSession, currentKey, endSession, isRemembered, type Level, useSession } from "./session";
import { ErrorBox, Page } from "./ui";

const PAGES: readonly (readonly [string, string, Level])[] = [
  ["jobs", "Downloads", "READ_ONLY"],
  ["schedules", "Schedules", "READ_ONLY"],
  ["webhooks", "Webhooks", "READ_ONLY"],
  ["statistics", "Statistics", "READ_ONLY"],
  ["keys", "Keys", "READ_ONLY"],
  ["health", "Health", "ADMIN"],
];

export function App() {
  const session = useSession();
  const [error, setError] = useState<Error>();
  const start = () => {
    setError(undefined);
    startSession().catch(setError);
  };
  useEffect(start, []);
  if (session.state === "signed-out") return <SignInPage />;
  if (error) {
    return (
      <main class="sign-in">
        <h1>Reelhaul</h1>
        <ErrorBox error={error} onRetry={start} />
      </main>
    );
  }
  if (session.state === "unknown") return <main class="sign-in" aria-busy="true" />;
  return <Frame />;
}

/** Find out whether the server asks for a key, and sign in with the one that is kept. */
async function startSession(): Promise<void> {
  const server = await call(api.GET("/v1:describeServer"));
  if (!server.authenticationRequired) beginSession("", false, { level: "FULL_ACCESS", name: "" });
  else if (currentKey()) await signIn(currentKey(), isRemembered());
  else endSession();
}

function Frame() {
  const { authenticated, name } = useSession();
  const route = useRoute();
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          document.querySelector("main")?.focus();
        }}
      >
        Skip to the content
      </a>
      <header class="bar">
        <span class="brand">Reelhaul</span>
        <nav aria-label="Pages">
          {PAGES.filter(([, , level]) => allows(level)).map(([page, title]) => (
            <a key={page} href={`#/${page}`} aria-current={route.page === page ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        {authenticated && (
          <span class="account">
            <span class="meta">{name}</span>
            <button type="button" class="link" onClick={() => endSession()}>
              Sign out
            </button>
          </span>
        )}
      </header>
      <ConnectionNotice />
      <main id="main" tabIndex={-1}>
        <CurrentPage route={route} />
      </main>
      <Announcer />
    </>
  );
}

function ConnectionNotice() {
  const connection = useConnection();
  return (
    <div class="connection" role="status">
      {connection === "reconnecting" && <p class="connection-lost">Connection lost. Reconnecting…</p>}
      {connection === "restored" && <p class="connection-restored">Connected again.</p>}
    </div>
  );
}

function CurrentPage({ route }: { route: Route }) {
  if (route.page === "jobs") return route.id ? <JobPage key={route.id} id={route.id} /> : <DownloadsPage key={route.visit} />;
  if (route.page === "schedules") return <SchedulesPage />;
  if (route.page === "webhooks") return <WebhooksPage />;
  if (route.page === "statistics") return <StatisticsPage />;
  if (route.page === "keys") return <KeysPage />;
  if (route.page === "health" && allows("ADMIN")) return <HealthPage />;
  return (
    <Page title="Not found">
      <p>
        There is no such page. <a href="#/jobs">All downloads</a>
      </p>
    </Page>
  );
}
