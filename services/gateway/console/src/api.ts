/** Calls of the JSON API, typed by its OpenAPI document, and its errors. */

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";
import { currentKey, endSession } from "./session";

export type Schemas = components["schemas"];
export type Job = Schemas["Job"];
export type JobState = Schemas["JobState"];
export type Artifact = Schemas["ArtifactInfo"];
export type Status = Schemas["Status"];

/** Where the gateway is: the folder of this page, which may be below a path of a proxy. */
export const BASE = new URL(".", document.baseURI.split("#")[0]).href;

/** A failed call: what happened, to which fields, and what may help. */
export class ApiError extends Error {
  constructor(
    /** HTTP status; 0 if there was no response. */
    readonly status: number,
    /** Reason as one word, e.g. QUOTA_EXCEEDED; empty if the server gave none. */
    readonly reason: string,
    message: string,
    readonly fields: { field: string; description: string }[] = [],
  ) {
    super(message);
  }
}

export const api = createClient<paths>({ baseUrl: BASE.replace(/\/$/, "") });

api.use({
  onRequest({ request }) {
    for (const [name, value] of Object.entries(credential())) request.headers.set(name, value);
    return request;
  },
});

/** Return the header with the key, if there is one. It is never part of a URL. */
export function credential(): Record<string, string> {
  const key = currentKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

interface Result<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** Return the body of a response. Throws ApiError for a failure, also for one without a response. */
export async function call<T>(request: Promise<Result<T>>): Promise<NonNullable<T>> {
  let result: Result<T>;
  try {
    result = await request;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "", "The server does not answer. Try again when it is reachable.");
  }
  if (!result.response.ok) throw toError(result.response.status, result.error);
  return result.data as NonNullable<T>;
}

/** Return the failure of a response with *status*, whose body is *body*. A refused key ends the session. */
export function toError(status: number, body: unknown): ApiError {
  const failure = toStatus(body);
  const reason = reasonOf(failure);
  if (reason === "CREDENTIAL_INVALID" || reason === "CREDENTIAL_MISSING") {
    endSession("The key is not accepted any more. Enter another one.");
  }
  const message = failure.message || `The server answered with status ${status}.`;
  return new ApiError(status, reason, message, violationsOf(failure));
}

function toStatus(body: unknown): Status {
  return typeof body === "object" && body !== null ? (body as Status) : {};
}

/** Return the reason in a google.rpc.Status, e.g. MEDIA_NOT_FOUND; empty if it has none. */
export function reasonOf(status: Status | undefined): string {
  const first = status?.details?.[0] as { reason?: string } | undefined;
  return first?.reason ?? "";
}

/** Return the links of a google.rpc.Status that say what to do; those that are no web address are left out. */
export function helpOf(status: Status | undefined): { description: string; url: string }[] {
  const details = (status?.details ?? []) as { links?: { description?: string; url?: string }[] }[];
  return details
    .flatMap((detail) => detail.links ?? [])
    .map((link) => ({ description: link.description || "Read more", url: link.url ?? "" }))
    .filter((link) => /^https?:\/\//.test(link.url));
}

function violationsOf(status: Status): { field: string; description: string }[] {
  const details = (status.details ?? []) as {
    fieldViolations?: { field?: string; description?: string }[];
  }[];
  return details
    .flatMap((detail) => detail.fieldViolations ?? [])
    .map(({ field = "", description = "" }) => ({ field, description }));
}

/** Return the id in a resource name: the last of its segments. */
export function idOf(name: string | undefined): string {
  return name?.slice(name.lastIndexOf("/") + 1) ?? "";
}

/** Return a random UUID; crypto.randomUUID exists only in secure contexts, and a LAN is none. */
export function randomUuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Return a link to the content of *artifact* that needs no header, for the player and for saving. */
export async function signLink(artifact: Artifact, disposition: "inline" | "attachment"): Promise<string> {
  const id = idOf(artifact.name);
  if (!currentKey()) return `${BASE}v1/artifacts/${id}:download?disposition=${disposition}`;
  const response = await call(
    api.POST("/v1/artifacts/{artifact}:signUrl", {
      params: { path: { artifact: id } },
      body: { disposition, ttl: "21600s" },
    }),
  );
  return response.url ?? "";
}

/** Save *artifact* as a file of the browser. */
export async function saveFile(artifact: Artifact): Promise<void> {
  const link = document.createElement("a");
  link.href = await signLink(artifact, "attachment");
  link.download = "";
  link.click();
}

/** Return the text of *artifact*, which must have at most *limit* bytes. Throws ApiError. */
export async function readText(artifact: Artifact, limit: number): Promise<string> {
  if (Number(artifact.sizeBytes ?? 0) > limit) {
    throw new ApiError(0, "", "The file is too large to be shown here. Save it instead.");
  }
  const url = `${BASE}v1/artifacts/${idOf(artifact.name)}:download?redirect=false`;
  const response = await fetch(url, { headers: credential() }).catch(() => {
    throw new ApiError(0, "", "The server does not answer. Try again when it is reachable.");
  });
  if (!response.ok) throw toError(response.status, await response.json().catch(() => null));
  return response.text();
}
