"""Direct fetches: downloads that callers start on this worker by RPC, without a queue and without a lease."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, OrderedDict
from datetime import timedelta

from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.service.attempt import Attempt, AttemptContext
from reelhaul_fetcher.service.download import artifact_metadata
from reelhaul_fetcher.service.fetches import TrackedFetch
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_fetcher.service.slots import Slot
from reelhaul_fetcher.service.worker import Worker
from reelhaul_runtime.errors import QuotaExceeded, ReelhaulError, StateConflict
from reelhaul_runtime.sites import site_of

log = logging.getLogger(__name__)

#: As long as the attempt of a job may run at most.
DEADLINE = timedelta(hours=12)

_MAX_REQUEST_IDS = 10_000


class DirectFetches:
    """Runs fetches in a worker's slots at once, at most *max_per_tenant* of one tenant."""

    def __init__(self, worker: Worker, context: AttemptContext, max_per_tenant: int) -> None:
        self._worker, self._context, self._max_per_tenant = worker, context, max_per_tenant
        self._running: Counter[str] = Counter()
        #: All fetches of the worker, also those of jobs.
        self.fetches = context.fetches
        # By request id: the digest of the request, and the name of its fetch.
        self._requests: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    def execute(self, spec: lease_pb2.FetchSpec, request_id: str = "") -> TrackedFetch:
        """Begin a fetch of *spec* and return it; if *request_id* was used before, return that fetch.

        Raises OVERLOADED if no slot is free, REQUEST_ID_REUSED if the id was used for another
        request, NotFound if its fetch has been forgotten.
        """
        digest = hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()
        if earlier := self._requests.get(request_id):
            return self._find_earlier(request_id, digest, *earlier)
        egress = self._context.downloader.access.egresses.choose(site_of(spec.url))
        slot = self._worker.reserve_slot()
        if self._running[spec.tenant] >= self._max_per_tenant:
            slot.release()
            limit = self._max_per_tenant
            raise QuotaExceeded(
                "direct_fetches",
                f"a tenant has at most {limit} direct fetches at one worker: wait for one to end",
                subject=f"tenants/{spec.tenant}",
                limit=limit,
            )
        self._running[spec.tenant] += 1
        spec.attempt_deadline.FromTimedelta(DEADLINE)
        fetch = self.fetches.begin(spec)
        attempt = DirectAttempt(
            self._context, slot, lease_pb2.Lease(epoch=1, spec=spec, egress=egress), fetch
        )
        fetch.cancel = attempt.cancel
        self._worker.start(attempt, lambda: self._end(spec.tenant))
        if request_id:
            self._requests[request_id] = digest, fetch.name
            if len(self._requests) > _MAX_REQUEST_IDS:
                self._requests.popitem(last=False)
        return fetch

    async def cancel(self, name: str) -> Fetch:
        """Cancel the fetch *name*; return it once its files and artifacts are gone.

        A fetch that has ended is returned as it is. Raises NotFound, and StateConflict for the fetch
        of a job.
        """
        fetch = self.fetches.get(name)
        if not fetch.ended:
            if fetch.cancel is None:
                raise StateConflict(name, "RUNNING", f"it serves {fetch.attempt}: cancel its job")
            fetch.cancel()
            await fetch.wait_ended()
        return fetch.snapshot()

    def _end(self, tenant: str) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]

    def _find_earlier(self, request_id: str, digest: bytes, earlier_digest: bytes, name: str) -> TrackedFetch:
        if earlier_digest != digest:
            text = "the request_id was used for another fetch"
            raise ReelhaulError(ErrorReason.REQUEST_ID_REUSED, text, metadata={"requestId": request_id})
        return self.fetches.get(name)


class DirectAttempt(Attempt):
    """The attempt of a direct fetch. Only its callers hear of it.

    Its artifacts belong to no job: the caller keeps them, or they expire.
    """

    def __init__(
        self, context: AttemptContext, slot: Slot, lease: lease_pb2.Lease, fetch: TrackedFetch
    ) -> None:
        # Names its work directory and its guard session, as that of a job does.
        super().__init__(context, slot, job=fetch.name.removeprefix("fetches/"))
        self.fetch, self.epoch = fetch, lease.epoch
        self._lease, self._cancelled = lease, False
        self._metadata = artifact_metadata("", 0, lease.spec)
        self._create_reporter(lease, 1, fetch, self._metadata, queue=None)

    async def run(self) -> None:
        """Download."""
        assert self._reporter is not None
        outcome = await self._execute(self._lease, self._metadata, self._reporter)
        # Only a lease is refused.
        assert isinstance(outcome, Finish)
        if self._cancelled:
            await self._context.downloader.artifacts.delete(
                [artifact.name for artifact in outcome.succeeded.artifacts]
            )
        else:
            self.committed = outcome
        log.info("finished", extra={"job": self.job, "outcome": outcome.WhichOneof("outcome")})

    def cancel(self) -> None:
        """Stop, and leave nothing behind."""
        self._cancelled = True
        self._stop(outcomes.cancelled())
