"""A worker that collects the transcript of every finished job.

Reelhaul calls it by a signed webhook; the transcript is a file of the job, if the job was created with
`subtitle_formats=["txt"]`.

    pip install reelhaul
    python transcriber.py PORT FOLDER URL    # 9000 transcripts https://hooks.example.org/

URL is where Reelhaul reaches this worker: public and https, unless the operator allows private networks by
REELHAUL_JOBS_WEBHOOK_NETWORKS.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from reelhaul.jobs.v1.webhook_pb2 import Webhook
from reelhaul.rest import Client
from reelhaul.webhooks import SignatureInvalid, verify

MAX_BODY_BYTES = 1024 * 1024


class Receiver(ThreadingHTTPServer):
    """Puts the names of finished jobs into a queue: Reelhaul waits for at most 15 seconds."""

    def __init__(self, port: int) -> None:
        super().__init__(("", port), Handler)
        self.secret = ""
        self.jobs: SimpleQueue[str] = SimpleQueue()
        #: Ids of events that have arrived: each may arrive twice. A real worker stores them.
        self.seen: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MAX_BODY_BYTES))
        try:
            event = verify(self.server.secret, self.headers, body)
        except SignatureInvalid as error:
            self.send_error(400, str(error))
            return
        event_id = self.headers["webhook-id"]
        if event.type == "job.succeeded" and event_id not in self.server.seen:
            self.server.seen.add(event_id)
            self.server.jobs.put(event.data.job.name)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def save_transcript(client: Client, name: str, folder: Path) -> None:
    """Save the transcripts of the job *name*, and print where they are."""
    job = client.get(name)
    transcripts = [file for file in job.files if file.name.endswith(".txt")]
    for saved in client.save_files(transcripts, folder):
        print(f"{job.title}: {saved.path}", flush=True)
    if not transcripts:
        print(f"{job.title}: no transcript", flush=True)


def main(port: str, folder: str, url: str) -> None:
    receiver = Receiver(int(port))
    with Client.from_env() as client:
        webhook = client.webhooks.create(Webhook(url=url, event_types=["job.succeeded"]))
        # Only this response has the secret.
        receiver.secret = webhook.secret
        Thread(target=receiver.serve_forever, daemon=True).start()
        print("waiting for jobs", flush=True)
        try:
            while True:
                save_transcript(client, receiver.jobs.get(), Path(folder))
        except KeyboardInterrupt:
            client.webhooks.delete(webhook.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
