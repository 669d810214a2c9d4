// A small client with the types of the OpenAPI document. Generate them first:
//
//   deno run --frozen -A npm:openapi-typescript http://127.0.0.1:8080/openapi.json -o api.ts
//
// In Node: npm install openapi-fetch openapi-typescript; nothing here is Deno's own.
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./api.ts";

export type Download = components["schemas"]["Download"];
export type DownloadRequest = components["schemas"]["CreateDownloadRequest"];
export type Progress = components["schemas"]["WatchProgressResponse"];

/** A call that the server rejected; `reason` is the word to branch on. */
export class CallFailed extends Error {
  constructor(readonly reason: string, message: string) {
    super(message);
  }
}

export class Reelhaul {
  readonly api: Client<paths>;
  readonly #headers: Record<string, string>;

  constructor(readonly server: string, apiKey = "") {
    this.#headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
    this.api = createClient<paths>({ baseUrl: server, headers: this.#headers });
  }

  /** Creates a job. A call that is repeated with the same key returns the same job. */
  async create(body: DownloadRequest, key: string = crypto.randomUUID()): Promise<Download> {
    const { data, error } = await this.api.POST("/api/v1/download", {
      body,
      params: { header: { "Idempotency-Key": key } },
    });
    if (data === undefined) throw failure(error);
    return data;
  }

  /** Yields what happens to a job until it has ended; resumes where it was when the connection breaks. */
  async *watch(jobId: string, retrySeconds = 120): AsyncGenerator<Progress> {
    let token = "", lastMessage = Date.now();
    while (true) {
      try {
        for await (const message of this.#stream(jobId, token)) {
          token = message.resume_token ?? token;
          lastMessage = Date.now();
          yield message;
          if (message.completed || message.failed) return;
        }
      } catch (error) {
        // fetch throws TypeError when the network fails; what the server says is final.
        if (!(error instanceof TypeError) || Date.now() - lastMessage > retrySeconds * 1000) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  /** Returns a job once it has ended. */
  async wait(jobId: string): Promise<Download> {
    for await (const { completed, failed } of this.watch(jobId)) {
      const job = completed ?? failed;
      if (job) return job;
    }
    throw new Error("unreachable: a watch ends with the job");
  }

  /** Opens a file of a job: its URL is a path on the server. */
  async open(file: { url?: string }): Promise<Response> {
    const response = await fetch(new URL(file.url!, this.server), { headers: this.#headers });
    if (!response.ok) throw failure(await response.json());
    return response;
  }

  async *#stream(jobId: string, token: string): AsyncGenerator<Progress> {
    const url = new URL(`/api/v1/progress/${encodeURIComponent(jobId)}`, this.server);
    if (token) url.searchParams.set("resume_token", token);
    const response = await fetch(url, { headers: { ...this.#headers, Accept: "application/x-ndjson" } });
    if (!response.ok) throw failure(await response.json());
    let rest = "";
    for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const { result, error } = JSON.parse(line);
        // UNAVAILABLE: the server restarts, or the stream is 12 hours old.
        if (error?.code === 14) throw new TypeError(error.message);
        if (error) throw failure(error);
        yield result;
      }
    }
  }
}

function failure(status: components["schemas"]["Status"] | undefined): CallFailed {
  const details = (status?.details ?? []) as { reason?: string }[];
  return new CallFailed(details.find((each) => each.reason)?.reason ?? "", status?.message ?? "no response");
}
