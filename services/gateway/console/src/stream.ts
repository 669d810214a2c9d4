/**
 * Server-sent events by fetch, which sends the key in a header; EventSource cannot.
 * A stream that breaks is opened again where it ended, by Last-Event-ID.
 */

import { BASE, type ApiError, credential, toError } from "./api";
import { reportConnection } from "./connection";

const FIRST_DELAY_MS = 300;
const LONGEST_DELAY_MS = 5000;
// The server sends a comment every 15 seconds at least.
const SILENCE_MS = 45000;
const UNAVAILABLE = 14;

export interface StreamHandlers<T> {
  /** Handles a message; false ends the stream. */
  onMessage(message: T): boolean | void;
  /** Handles the end of the stream: it has no further messages. */
  onEnd?(): void;
  /** Handles a failure that another try would not mend. */
  onFailure(error: ApiError): void;
}

/** Read the stream at *path* until the returned function is called. Paused while the page is hidden. */
export function openStream<T>(path: string, handlers: StreamHandlers<T>): () => void {
  const ended = new AbortController();
  void readForever(path, handlers, ended.signal);
  return () => ended.abort();
}

async function readForever<T>(path: string, handlers: StreamHandlers<T>, ended: AbortSignal): Promise<void> {
  const id = Symbol(path);
  const position = { token: "" };
  let delay = FIRST_DELAY_MS;
  ended.addEventListener("abort", () => reportConnection(id, true));
  while (!ended.aborted) {
    await untilVisible(ended);
    try {
      const outcome = await readOnce(path, handlers, position, ended, () => {
        delay = FIRST_DELAY_MS;
        reportConnection(id, true);
      });
      if (outcome === "end") return;
      if (outcome !== "again") {
        reportConnection(id, true);
        handlers.onFailure(outcome);
        return;
      }
    } catch {
      if (ended.aborted) return;
    }
    if (document.hidden) continue;
    reportConnection(id, false);
    await sleep(delay * (0.75 + Math.random() / 2), ended);
    delay = Math.min(delay * 2, LONGEST_DELAY_MS);
  }
}

async function readOnce<T>(
  path: string,
  handlers: StreamHandlers<T>,
  position: { token: string },
  ended: AbortSignal,
  onOpen: () => void,
): Promise<"end" | "again" | ApiError> {
  const broken = new AbortController();
  const stop = () => broken.abort();
  const onHidden = () => document.hidden && stop();
  let silence = setTimeout(stop, SILENCE_MS);
  ended.addEventListener("abort", stop);
  document.addEventListener("visibilitychange", onHidden);
  try {
    const headers: Record<string, string> = { Accept: "text/event-stream", ...credential() };
    if (position.token) headers["Last-Event-ID"] = position.token;
    const response = await fetch(BASE + path, { headers, signal: broken.signal, cache: "no-store" });
    if (response.status === 204) {
      handlers.onEnd?.();
      return "end";
    }
    if (!response.ok || !response.body) {
      const body: unknown = await response.json().catch(() => null);
      return response.status >= 500 || response.status === 429 ? "again" : toError(response.status, body);
    }
    onOpen();
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE_MS);
    };
    for await (const event of readEvents(response.body, alive)) {
      if (event.id) position.token = event.id;
      const data: unknown = JSON.parse(event.data);
      if (event.name === "stream_error") {
        return (data as { code?: number }).code === UNAVAILABLE ? "again" : toError(400, data);
      }
      if (handlers.onMessage(data as T) === false) return "end";
    }
    return "again";
  } finally {
    clearTimeout(silence);
    stop();
    ended.removeEventListener("abort", stop);
    document.removeEventListener("visibilitychange", onHidden);
  }
}

interface ServerSentEvent {
  id: string;
  name: string;
  data: string;
}

/** Yield the events of *body*. https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation */
async function* readEvents(
  body: ReadableStream<Uint8Array>,
  onChunk: () => void,
): AsyncGenerator<ServerSentEvent> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  let event: ServerSentEvent = { id: "", name: "", data: "" };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onChunk();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (event.data) yield event;
        event = { id: "", name: "", data: "" };
        continue;
      }
      const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
      if (field === "id") event.id = text ?? "";
      else if (field === "event") event.name = text ?? "";
      else if (field === "data") event.data += (event.data ? "\n" : "") + (text ?? "");
    }
  }
}

function untilVisible(ended: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !ended.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    ended.addEventListener("abort", look);
  });
}

function sleep(milliseconds: number, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    ended.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
