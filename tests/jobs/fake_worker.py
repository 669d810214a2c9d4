"""A fetcher without a download: it pulls, claims and finishes as the real one does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError

from reelhaul.type.v1 import media_pb2
from reelhaul.work.v1 import lease_pb2, lease_service_pb2_grpc, work_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest, FinishRequest, RenewRequest

#: What a worker does with a job that it holds.
Handler = Callable[["HeldJob"], Awaitable[None]]


class HeldJob:
    """A job that a worker holds."""

    def __init__(self, worker: FakeWorker, job: str, attempt: int, lease: lease_pb2.Lease) -> None:
        self._worker = worker
        self.job, self.attempt, self.lease = job, attempt, lease
        self._sequence = 0

    async def progress(self, percent: float, detail: str = "") -> None:
        """Publish progress."""
        self._sequence += 1
        notice = work_pb2.ProgressNotice(
            job=self.job,
            epoch=self.lease.epoch,
            sequence=self._sequence,
            progress=media_pb2.Progress(percent=percent, attempt=self.attempt, detail=detail),
        )
        subject = f"progress.{self.job.removeprefix('jobs/')}"
        await self._worker.client.jetstream().publish(subject, notice.SerializeToString())

    async def renew(self, **fields: object):
        """Renew the lease."""
        return await self._worker.leases.Renew(RenewRequest(job=self.job, epoch=self.lease.epoch, **fields))

    async def finish(self, **outcome: object):
        """Finish the lease."""
        return await self._worker.leases.Finish(
            FinishRequest(job=self.job, epoch=self.lease.epoch, **outcome)
        )

    async def succeed(self):
        """Finish the lease as succeeded, with one artifact."""
        artifact = media_pb2.ArtifactInfo(name=f"artifacts/{uuid.uuid4()}", kind=media_pb2.ArtifactInfo.VIDEO)
        return await self.finish(succeeded=succeeded(artifact))


def succeeded(*artifacts: media_pb2.ArtifactInfo) -> FinishRequest.Succeeded:
    return FinishRequest.Succeeded(artifacts=artifacts, media=media_pb2.MediaInfo(title="A video"))


class FakeWorker:
    """Pulls one item at a time per slot and hands the jobs that it claims to *handle*."""

    def __init__(
        self, client: Client, leases: lease_service_pb2_grpc.LeaseServiceStub, handle: Handler, slots: int
    ) -> None:
        self.client, self.leases, self.handle, self.slots = client, leases, handle, slots
        self.name = f"worker-{uuid.uuid4().hex[:6]}"
        #: (job, attempt) of each item pulled, in order.
        self.items: list[tuple[str, int]] = []
        #: Reasons of the claims that were refused, in order.
        self.refusals: list[int] = []

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.gather(*(self._run_slot() for _ in range(self.slots)))

    async def _run_slot(self) -> None:
        this = asyncio.current_task()
        assert this is not None
        # Before Python 3.12 wait_for, and a fetch through it, may swallow a cancellation (CPython
        # issue 86296).
        while not this.cancelling():
            try:
                pull = await self.client.jetstream().pull_subscribe_bind("work-normal-default", "WORK")
                while not this.cancelling():
                    for message in await pull.fetch(1, timeout=0.5):
                        await self._handle(message)
            except (nats.errors.Error, JetStreamError, TimeoutError):
                await asyncio.sleep(0.05)

    async def _handle(self, message: Msg) -> None:
        item = work_pb2.WorkItem.FromString(message.data)
        self.items.append((item.job, item.attempt))
        response = await self.leases.Claim(claim_request(item, self.name, self.slots))
        if response.HasField("lease"):
            await self.handle(HeldJob(self, item.job, item.attempt, response.lease))
        else:
            self.refusals.append(response.refusal.reason)
            if response.refusal.HasField("retry_delay"):
                await message.nak(response.refusal.retry_delay.ToTimedelta().total_seconds())
                return
        await message.ack()


def claim_request(item: work_pb2.WorkItem, worker: str, slots: int = 1) -> ClaimRequest:
    slot = lease_pb2.Slot(engine_version="none 1", slot_count=slots)
    return ClaimRequest(
        job=item.job, attempt=item.attempt, worker=worker, slot=slot, request_id=str(uuid.uuid4())
    )


@asynccontextmanager
async def run_worker(service, handle: Handler, slots: int = 1) -> AsyncIterator[FakeWorker]:
    """Run a worker while the block runs."""
    worker = FakeWorker(service.nats, service.leases, handle, slots)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
