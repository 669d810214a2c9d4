"""A worker without a download, as a process: it pulls, claims, finishes, acknowledges as a fetcher does."""

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

from bench.jobs.completions import Teller
from reelhaul.type.v1 import media_pb2
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest, FinishRequest
from reelhaul_fetcher.clients.jobs import BatchingLeaseClient
from reelhaul_runtime import nats_client
from reelhaul_runtime.rpc.channels import open_channel

_NEXT = "$JS.API.CONSUMER.MSG.NEXT.WORK.work-{lane}-default"
_LANES = ("high", "normal", "bulk")
_EXPIRES = 5.0


class Worker:
    """So many slots, each filled from the broker as soon as it is free."""

    def __init__(self, client: Client, leases: BatchingLeaseClient, slots: int, hold: float) -> None:
        self._client, self._leases, self._slots, self._hold = client, leases, slots, hold
        self._name = f"bench-{uuid.uuid4().hex[:8]}"
        self._teller = Teller()
        self._items: asyncio.Queue[Msg] = asyncio.Queue()
        self._busy: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled; then end what is in hand."""
        inbox = self._client.new_inbox()
        await self._client.subscribe(inbox, cb=self._arrived)
        slots = [asyncio.create_task(self._slot(inbox)) for _ in range(self._slots)]
        try:
            await asyncio.gather(*slots)
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    async def _slot(self, inbox: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._pull(inbox)
            try:
                async with asyncio.timeout(_EXPIRES + 0.5):
                    message = await self._items.get()
            except TimeoutError:
                continue
            # A task of its own: a drain ends it, and does not break it off.
            job = loop.create_task(self._handle(message))
            self._busy.add(job)
            job.add_done_callback(self._busy.discard)
            await asyncio.shield(job)

    async def _pull(self, inbox: str) -> None:
        asked = {"batch": 1, "expires": round(_EXPIRES * 1e9)}
        await self._client.publish(_NEXT.format(lane="normal"), json.dumps(asked).encode(), reply=inbox)

    async def _arrived(self, message: Msg) -> None:
        if not (message.headers or {}).get("Status"):
            self._items.put_nowait(message)

    async def _handle(self, message: Msg) -> None:
        item = work_pb2.WorkItem.FromString(message.data)
        answer = await self._leases.claim(self._claim(item))
        if answer.HasField("lease"):
            if self._hold:
                await asyncio.sleep(self._hold)
            await self._leases.finish(_finish(item, answer.lease.epoch))
        await message.ack_sync(timeout=5)
        if answer.HasField("lease"):
            self._teller.one()

    def _claim(self, item: work_pb2.WorkItem) -> ClaimRequest:
        slot = lease_pb2.Slot(engine_version="none 1", slot_count=self._slots)
        return ClaimRequest(
            job=item.job, attempt=item.attempt, worker=self._name, slot=slot, request_id=str(uuid.uuid4())
        )


def _finish(item: work_pb2.WorkItem, epoch: int) -> FinishRequest:
    artifact = media_pb2.ArtifactInfo(name=f"artifacts/{uuid.uuid4()}", kind=media_pb2.ArtifactInfo.VIDEO)
    media = media_pb2.MediaInfo(title="A film", extractor="none")
    return FinishRequest(
        job=item.job, epoch=epoch, succeeded=FinishRequest.Succeeded(artifacts=[artifact], media=media)
    )


async def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs")
    parser.add_argument("nats")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--hold", type=float, default=0.0)
    asked = parser.parse_args()
    service = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
    async with (
        nats_client.connect(asked.nats, "bench") as client,
        open_channel(asked.jobs, [service], suite_token=os.environ["REELHAUL_SUITE_TOKEN"]) as opened,
    ):
        worker = Worker(client, BatchingLeaseClient(opened), asked.slots, asked.hold)
        running = asyncio.create_task(worker.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await asyncio.wait([running])
        if not running.cancelled() and (error := running.exception()):
            raise error


if __name__ == "__main__":
    uvloop.run(main())
