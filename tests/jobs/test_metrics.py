"""Metrics of the jobs service over real gRPC and NATS: a scrape shows what is, and fails for nothing."""

from __future__ import annotations

from pathlib import Path

from tests.jobs.calls import create_job, wait_for_end
from tests.jobs.conftest import eventually, run_service
from tests.jobs.fake_worker import run_worker
from tests.metric_values import MetricChanges, scrape
from tests.servers import running_nats_server


async def test_a_job_from_its_creation_to_its_end(service):
    """A job is counted when it is created, claimed and ended, and the gauges show none that is left."""
    changes = MetricChanges()
    job = await create_job(service)
    async with run_worker(service, lambda held: held.succeed(), slots=3):
        await wait_for_end(service, job.name)
        assert changes.of("reelhaul_jobs_created_total") == {("api",): 1}
        assert changes.of("reelhaul_jobs_ended_total") == {("", "videos.example", "SUCCEEDED"): 1}
        assert changes.of("reelhaul_attempts_ended_total") == {("SUCCEEDED", ""): 1}
        assert changes.of("reelhaul_job_start_seconds_count") == {("NORMAL",): 1}
        assert changes.of("reelhaul_job_duration_seconds_count") == {("SUCCEEDED",): 1}
        assert changes.of("reelhaul_dispatched_total") == {("first",): 1}
        values = await scrape()
    assert set(values["reelhaul_jobs"].values()) == {0}
    assert values["reelhaul_worker_slots"] == {("busy",): 0, ("free",): 3}
    assert values["reelhaul_loop_leader"]["dispatcher",] == 1


async def test_a_scrape_without_a_broker(settings, tmp_path: Path):
    """While the broker is away a scrape shows no work items, and everything else."""
    async with (
        running_nats_server(tmp_path / "other") as server,
        run_service(settings.model_copy(update={"nats_url": server.url})) as service,
    ):
        await create_job(service)
        server.kill()
        changes = MetricChanges()
        await eventually(lambda: not service.nats.is_connected)
        values = await scrape()
        assert "reelhaul_work_items" not in values
        assert values["reelhaul_jobs"]["QUEUED",] == 1
        assert changes.of("reelhaul_collector_failures_total") == {("work_items",): 1}
