"""Worker process that downloads nothing: it pulls, claims, finishes and acknowledges as a fetcher does."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import uuid

import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.jobs.completions import CompletionReporter
from reelhaul.type.v1 import media_pb2
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest, FinishRequest
from reelhaul_fetcher.clients.jobs import BatchingLeaseClient
from reelhaul_runtime import nats_client
from reelhaul_runtime.rpc.channels import open_channel

_PULL_SUBJECT = "$JS.API.CONSUMER.MSG.NEXT.WORK.work-normal-default"
_PULL_EXPIRES_SECONDS = 5.0


class Worker:
    """*slots* concurrent slots, each of which pulls a work item as soon as it is free."""

    def __init__(self, client: Client, leases: BatchingLeaseClient, slots: int, job_seconds: float) -> None:
        self._client, self._leases, self._slots, self._job_seconds = client, leases, slots, job_seconds
        self._name = f"bench-{uuid.uuid4().hex[:8]}"
        self._completions = CompletionReporter()
        self._items: asyncio.Queue[Msg] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled; then complete the running jobs."""
        inbox = self._client.new_inbox()
        await self._client.subscribe(inbox, cb=self._receive)
        slots = [asyncio.create_task(self._run_slot(inbox)) for _ in range(self._slots)]
        try:
            await asyncio.gather(*slots)
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _run_slot(self, inbox: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._pull(inbox)
            try:
                async with asyncio.timeout(_PULL_EXPIRES_SECONDS + 0.5):
                    message = await self._items.get()
            except TimeoutError:
                continue
            # A separate task, so that cancelling the slot does not interrupt the job.
            job = loop.create_task(self._run_job(message))
            self._running.add(job)
            job.add_done_callback(self._running.discard)
            await asyncio.shield(job)

    async def _pull(self, inbox: str) -> None:
        request = {"batch": 1, "expires": round(_PULL_EXPIRES_SECONDS * 1e9)}
        await self._client.publish(_PULL_SUBJECT, json.dumps(request).encode(), reply=inbox)

    async def _receive(self, message: Msg) -> None:
        # A message with a status says that the pull has expired.
        if not (message.headers or {}).get("Status"):
            self._items.put_nowait(message)

    async def _run_job(self, message: Msg) -> None:
        item = work_pb2.WorkItem.FromString(message.data)
        response = await self._leases.claim(self._claim_request(item))
        if response.HasField("lease"):
            if self._job_seconds:
                await asyncio.sleep(self._job_seconds)
            await self._leases.finish(_finish_request(item, response.lease.epoch))
        await message.ack_sync(timeout=5)
        if response.HasField("lease"):
            self._completions.report()

    def _claim_request(self, item: work_pb2.WorkItem) -> ClaimRequest:
        slot = lease_pb2.Slot(engine_version="none 1", slot_count=self._slots)
        return ClaimRequest(
            job=item.job, attempt=item.attempt, worker=self._name, slot=slot, request_id=str(uuid.uuid4())
        )


def _finish_request(item: work_pb2.WorkItem, epoch: int) -> FinishRequest:
    artifact = media_pb2.ArtifactInfo(name=f"artifacts/{uuid.uuid4()}", kind=media_pb2.ArtifactInfo.VIDEO)
    media = media_pb2.MediaInfo(title="A video", extractor="none")
    return FinishRequest(
        job=item.job, epoch=epoch, succeeded=FinishRequest.Succeeded(artifacts=[artifact], media=media)
    )


async def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.jobs.worker")
    parser.add_argument("jobs", help="address of the jobs service")
    parser.add_argument("nats", help="URL of the broker")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--job-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    service = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
    token = os.environ["REELHAUL_SUITE_TOKEN"]
    async with (
        nats_client.connect(arguments.nats, "bench") as client,
        open_channel(arguments.jobs, [service], suite_token=token) as channel,
    ):
        worker = Worker(client, BatchingLeaseClient(channel), arguments.slots, arguments.job_seconds)
        task = asyncio.create_task(worker.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


if __name__ == "__main__":
    uvloop.run(main())
