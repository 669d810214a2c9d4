"""Fetches that no queue brought: attempts like all others, but their leases this worker gives itself."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata, ArtifactStore, Delivery, WorkQueue
from reelhaul_fetcher.service.attempt import Attempt, AttemptContext
from reelhaul_fetcher.service.fetches import TrackedFetch
from reelhaul_fetcher.service.worker import Worker
from reelhaul_runtime.errors import ReelhaulError, StateConflict
from reelhaul_runtime.sites import site_of

#: As long as a job's attempt may run at most.
DEADLINE = timedelta(hours=12)

# Nobody else could take such a lease: it is renewed for nothing but to be told to stop.
_LEASE = timedelta(hours=1)
_MOST_REQUESTS = 10_000


class DirectFetches:
    """Runs fetches on a worker's slots, as they are asked for."""

    def __init__(self, worker: Worker, bench: AttemptContext) -> None:
        self._worker, self._bench = worker, bench
        #: Those that it began, among the others of the worker.
        self.fetches = bench.fetches
        # Request ids, with what was asked by them and what came of it.
        self._asked: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    def execute(self, spec: lease_pb2.FetchSpec, request_id: str = "") -> TrackedFetch:
        """The fetch of *spec*, begun now; with a *request_id* that was used before, the one begun then.

        Raises OVERLOADED where there is no place, REQUEST_ID_REUSED where something else was
        asked by that id, NotFound where what was begun by it is forgotten.
        """
        digest = hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()
        if known := self._asked.get(request_id):
            return self._again(known, digest, request_id)
        egress = self._bench.downloader.egresses.choose(site_of(spec.url))
        place = self._worker.reserve_slot()
        spec.attempt_deadline.FromTimedelta(DEADLINE)
        fetch, leases = self.fetches.begin(spec), LocalLeases(spec, egress)
        attempt = Attempt(self._alone(leases), NullDelivery(fetch.name), place, fetch)

        def stop() -> None:
            leases.cancelled = True
            attempt.renew_now()

        fetch.cancel = stop
        self._worker.start(attempt)
        if request_id:
            self._asked[request_id] = digest, fetch.name
            if len(self._asked) > _MOST_REQUESTS:
                self._asked.popitem(last=False)
        return fetch

    async def cancel(self, name: str) -> Fetch:
        """The fetch *name*, ended: its files and what it stored are gone, unless it had ended before.

        Raises NotFound, and StateConflict where jobs holds it.
        """
        fetch = self.fetches.get(name)
        if not fetch.ended:
            if fetch.cancel is None:
                raise StateConflict(name, "RUNNING", f"it serves {fetch.attempt}: cancel its job")
            fetch.cancel()
            await fetch.wait_ended()
        return fetch.snapshot()

    def _again(self, known: tuple[bytes, str], digest: bytes, request_id: str) -> TrackedFetch:
        before, name = known
        if before != digest:
            text = "the request_id was used for another fetch"
            raise ReelhaulError(ErrorReason.REQUEST_ID_REUSED, text, metadata={"requestId": request_id})
        return self.fetches.get(name)

    def _alone(self, leases: LocalLeases) -> AttemptContext:
        """What an attempt works with that concerns nobody but who watches it here."""
        fetching = self._bench.downloader
        return replace(
            self._bench,
            leases=leases,
            queue=SilentQueue(self._bench.queue),
            downloader=replace(fetching, artifacts=UnownedArtifacts(fetching.artifacts)),
        )


class LocalLeases:
    """As ``ports.Leases``: the lease of one fetch, which is given, kept, and ended when it is cancelled."""

    def __init__(self, spec: lease_pb2.FetchSpec, egress: str) -> None:
        self.cancelled = False
        self._lease = lease_pb2.Lease(epoch=1, spec=spec, egress=egress)
        self._lease.lease_duration.FromTimedelta(_LEASE)

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """As ``ports.Leases.claim``."""
        return lease_service_pb2.ClaimResponse(lease=self._lease)

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """As ``ports.Leases.renew``."""
        renewal = lease_pb2.Renewal(cancel_requested=self.cancelled)
        return lease_service_pb2.RenewResponse(renewal=renewal)

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """As ``ports.Leases.finish``."""
        receipt = lease_pb2.Receipt(cancelled=self.cancelled)
        return lease_service_pb2.FinishResponse(receipt=receipt)


class NullDelivery:
    """As ``ports.Delivery``: nobody waits for what becomes of it."""

    def __init__(self, fetch: str) -> None:
        # Names its folder and its pass, as a job's does.
        self.item = work_pb2.WorkItem(job=fetch.removeprefix("fetches/"), attempt=1)

    async def ack(self) -> None:
        """As ``ports.Delivery.ack``."""

    async def nak(self, delay: timedelta) -> None:
        """As ``ports.Delivery.nak``."""

    async def in_progress(self) -> None:
        """As ``ports.Delivery.in_progress``."""


@dataclass(frozen=True, slots=True)
class SilentQueue:
    """A queue to which nothing is told: of such a fetch the suite knows nothing."""

    inner: WorkQueue

    async def next(self) -> Delivery:
        """As ``ports.Queue.next``."""
        return await self.inner.next()

    def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """As ``ports.Queue.hints``."""
        return self.inner.stop_hints()

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """As ``ports.Queue.publish``."""

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """As ``ports.Queue.say``."""


@dataclass(frozen=True, slots=True)
class UnownedArtifacts:
    """Artifacts that are stored as nobody's result: their caller keeps them, or they expire."""

    inner: ArtifactStore

    def prepare(self, product: Product, stamp: ArtifactMetadata) -> None:
        """As ``ports.Artifacts.announce``."""
        self.inner.prepare(product, _of_no_job(stamp))

    async def cancel_prepared(self, folder: Path) -> None:
        """As ``ports.Artifacts.withdraw``."""
        await self.inner.cancel_prepared(folder)

    async def store(
        self, product: Product, stamp: ArtifactMetadata, told: Callable[[int], None]
    ) -> ArtifactInfo:
        """As ``ports.Artifacts.store``."""
        return await self.inner.store(product, _of_no_job(stamp), told)

    async def delete(self, names: Sequence[str]) -> None:
        """As ``ports.Artifacts.discard``."""
        await self.inner.delete(names)


def _of_no_job(stamp: ArtifactMetadata) -> ArtifactMetadata:
    return replace(stamp, job="", epoch=0)
