// Creates, reads and lists downloads with the types of the OpenAPI document; prints what it got.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.ts";

type CreateDownloadRequest = components["schemas"]["CreateDownloadRequest"];

const client = createClient<paths>({ baseUrl: Deno.args[0] });
const body: CreateDownloadRequest = {
  url: "https://media.example/typescript",
  quality: "1080p",
  schedule_time: new Date(Date.now() + 86_400_000).toISOString(),
};
const created = await client.POST("/api/v1/download", { body });
if (created.data === undefined) throw new Error(created.error.message);
const job_id: string = created.data.job_id;
const read = await client.GET("/api/v1/status/{job_id}", { params: { path: { job_id } } });
const list = await client.GET("/api/v1/jobs", { params: { query: { status: ["QUEUED"], page_size: 100 } } });
const missing = await client.GET("/api/v1/status/{job_id}", {
  params: { path: { job_id: "00000000-0000-7000-8000-000000000000" } },
});

// @ts-expect-error: a URL is text
const _wrongType: CreateDownloadRequest = { url: 1 };
// @ts-expect-error: url is required
const _incomplete: CreateDownloadRequest = {};

console.log(JSON.stringify({
  created: job_id,
  status: read.data?.status,
  listed: list.data?.jobs.map((job) => job.job_id),
  missing: missing.error?.code,
}));
