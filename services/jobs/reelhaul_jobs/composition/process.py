"""The state of a process of jobs, as it reports it to the suite."""

from __future__ import annotations

from reelhaul.system.v1.system_service_pb2 import ReportHealthResponse
from reelhaul_jobs.composition.backends import Backends
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_runtime.system.process_report import ProcessReport

_Component = ReportHealthResponse.Component


def open_process_report(backends: Backends, queue: QueueStore) -> ProcessReport:
    """Return the report of this process: its database, its broker, the queue and the fetchers."""

    async def describe_database() -> _Component:
        return _Component(version=await backends.database.describe())

    async def describe_broker() -> _Component:
        version, items = backends.bus.version, await backends.bus.count_work_items()
        return _Component(version=version, message=f"{items} work items in its stream")

    async def describe_queue() -> _Component:
        waiting = await queue.count_in_stages([QueueStage.READY, QueueStage.PUBLISHED])
        running = await queue.count_in_stages([QueueStage.LEASED])
        return _Component(used_count=waiting, message=f"{waiting} jobs wait for a slot, {running} run")

    async def describe_workers() -> _Component:
        running, workers = await queue.count_in_stages([QueueStage.LEASED]), backends.hub.workers.active()
        # A worker that has not claimed anything yet has only reported.
        slots = max(await queue.count_worker_slots(backends.now()), sum(each.slots for each in workers))
        if not slots:
            text, remedy = "no live fetcher: jobs wait", "start a fetcher, or end the drain of one"
            return _Component(total_count=0, message=text, remedy=remedy)
        return _Component(used_count=running, total_count=slots, message=f"live fetchers: {len(workers)}")

    return ProcessReport(
        "jobs",
        backends.settings,
        {
            "jobs.database": describe_database,
            "jobs.nats": describe_broker,
            "jobs.queue": describe_queue,
            "jobs.workers": describe_workers,
        },
    )
