// Downloads a video: deno run --allow-net --allow-env --allow-write download.ts URL FOLDER
import { CallFailed, Reelhaul } from "./reelhaul.ts";

const [url, folder] = Deno.args;
const server = Deno.env.get("REELHAUL_GATEWAY_ADDRESS") ?? "http://127.0.0.1:8080";
const reelhaul = new Reelhaul(server, Deno.env.get("REELHAUL_API_KEY"));

try {
  const job = await reelhaul.create({ url, quality: "360p", format: "mp4" });
  for await (const { progress, completed, failed } of reelhaul.watch(job.job_id)) {
    if (progress?.progress_percent !== undefined) console.error(`${progress.progress_percent.toFixed(0)} %`);
    if (failed) throw new CallFailed(failed.error?.reason ?? "", failed.error?.message ?? "cancelled");
    for (const file of completed?.files ?? []) {
      // The name is safe on every system; createNew keeps what is there.
      const target = await Deno.open(`${folder}/${file.name}`, { write: true, createNew: true });
      await (await reelhaul.open(file)).body!.pipeTo(target.writable);
      console.log(`${folder}/${file.name}`);
    }
  }
} catch (error) {
  if (!(error instanceof CallFailed)) throw error;
  console.error(`${error.reason}: ${error.message}`);
  Deno.exit(1);
}
