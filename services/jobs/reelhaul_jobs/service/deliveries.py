"""Deliverer: delivers the artifacts of succeeded jobs to the destinations that the jobs name."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial

from reelhaul_jobs.model import deliveries
from reelhaul_jobs.model.job import Delivery, Job
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import ChangeRule, JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock, Storage
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound, ReelhaulError, to_status
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_runtime.tracing import spans

log = logging.getLogger(__name__)

#: Jobs whose artifacts one replica delivers at once, and of each tenant: a bucket that does not answer takes
#: half a minute per try, and must not keep other tenants waiting.
MAX_RUNNING, MAX_PER_TENANT = 8, 2
_MAX_LISTED = 100
_RENEWAL_SECONDS = deliveries.LEASE.total_seconds() / 3


class Deliverer:
    """Starts the deliveries that are due. They run in tasks of their own, which outlive the leadership.

    Each holds its row by a lease: if this process dies, another one tries the delivery again.
    """

    def __init__(
        self, store: JobStore, queue: QueueStore, storage: Storage, notifier: ChangeNotifier, now: Clock
    ) -> None:
        self._store = store
        self._queue = queue
        self._storage = storage
        self._notifier = notifier
        self._now = now
        # By job, with its tenant.
        self._tasks: dict[str, tuple[str, asyncio.Task[None]]] = {}

    async def step(self) -> bool:
        """Start the deliveries of some jobs; return whether more may be due at once."""
        if len(self._tasks) >= MAX_RUNNING:
            return False
        running = Counter(tenant for tenant, _ in self._tasks.values())
        # Those that run here may be among them, late with their renewal.
        due = await self._queue.list_deliveries_due(self._now(), 2 * MAX_PER_TENANT, _MAX_LISTED)
        for job_id, tenant in due:
            if job_id in self._tasks or running[tenant] >= MAX_PER_TENANT or running.total() >= MAX_RUNNING:
                continue
            running[tenant] += 1
            task = asyncio.create_task(self._deliver_job(job_id))
            self._tasks[job_id] = tenant, task
            task.add_done_callback(partial(self._finished, job_id))
        return False

    async def wait(self) -> None:
        """Wait until the deliveries that run now have ended."""
        await asyncio.gather(*(task for _, task in self._tasks.values()), return_exceptions=True)

    async def close(self) -> None:
        """Stop all deliveries; they are tried again when their leases end."""
        await cancel_and_wait(*(task for _, task in self._tasks.values()))

    def _finished(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[job_id]
        if not task.cancelled() and (error := task.exception()):
            # The lease ends, and it is tried again.
            expected = isinstance(error, ReelhaulError)
            log.log(
                logging.WARNING if expected else logging.ERROR,
                "delivery interrupted",
                exc_info=None if expected else error,
                extra={"job": f"jobs/{job_id}", "cause": repr(error)},
            )

    async def _deliver_job(self, job_id: str) -> None:
        """Deliver what is due of the job, one artifact after the other."""
        while True:
            claimed = await self._change(job_id, lambda job: deliveries.claim(job, self._now()))
            if claimed is None or not claimed.changed:
                return
            job = claimed.job
            with spans.continuing(job.traceparent):
                await self._deliver(job, next(each for each in job.deliveries if each.is_running))

    async def _deliver(self, job: Job, running: Delivery) -> None:
        """Deliver one artifact and record the result; stop if somebody else has taken it over."""
        fields = {"job": job.name, "artifact": running.artifact, "destination": job.deliver_to}
        name = deliveries.object_name(job, running.artifact)
        call = asyncio.create_task(self._storage.deliver(running.artifact, job.deliver_to, job.tenant, name))
        try:
            while not (await asyncio.wait([call], timeout=_RENEWAL_SECONDS))[0]:
                renewed = await self._change(job.id, lambda job: deliveries.renew(job, running, self._now()))
                if renewed is None or not renewed.changed:
                    log.info("delivery stopped", extra=fields)
                    return
            uri = call.result()
        except ReelhaulError as error:
            log.warning("delivery failed", extra=fields | {"cause": error.text})
            status = to_status(error)
            await self._change(job.id, lambda job: deliveries.fail(job, running, status, self._now()))
        else:
            log.info("delivered", extra=fields | {"uri": uri})
            await self._change(job.id, lambda job: deliveries.complete(job, running, uri, self._now()))
        finally:
            await cancel_and_wait(call)

    async def _change(self, job_id: str, rule: ChangeRule) -> Transition | None:
        """Change the job and notify its watchers; None if it does not exist any more."""
        try:
            transition = await self._store.change(job_id, rule)
        except NotFound:
            return None
        await self._notifier.notify(transition)
        return transition
