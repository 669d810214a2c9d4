"""Schedules over real gRPC, and the scheduler on SQLite with a clock that the test sets."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import field_mask_pb2
from tests.job_stores import SqlStore
from tests.jobs.calls import URL, reason_of
from tests.jobs.conftest import TOKEN, eventually, run_service
from tests.jobs.fake_bus import FakeBus

from reelhaul.jobs.v1 import schedule_service_pb2, schedule_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Expansion, Job
from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.schedule_service_pb2 import (
    CreateScheduleRequest,
    DeleteScheduleRequest,
    GetScheduleRequest,
    ListSchedulesRequest,
    PauseScheduleRequest,
    ResumeScheduleRequest,
    RunScheduleRequest,
    UpdateScheduleRequest,
)
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import job as model_job
from reelhaul_jobs.model import queue_transitions, schedule
from reelhaul_jobs.model.schedule import CatchUp, ScheduleState
from reelhaul_jobs.ports.jobs import Query
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.schedules import Scheduler, with_first_run
from reelhaul_runtime.errors import ReelhaulError, StateConflict
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.tracing import spans

SERVICES = [schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"]]
START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class SchedulerHarness:
    """A scheduler, and a clock that the test sets."""

    def __init__(self, store: SqlStore) -> None:
        self.time = START
        self.jobs = store
        self.schedules = store.schedules
        self.forbidden = False
        notifier = ChangeNotifier(EventHub(), FakeBus())
        self.scheduler = Scheduler(self.schedules, notifier, lambda: self.time, self.check_job)

    def check_job(self, job: model_job.Job) -> None:
        if self.forbidden:
            raise ReelhaulError(ErrorReason.URL_FORBIDDEN, "not any more", metadata={"host": "v.example"})

    async def add(self, **fields: object) -> schedule.Schedule:
        template = model_job.Job(
            id="", tenant="acme", url=URL, format=media_pb2.FormatSpec(), create_time=START, update_time=START
        )
        hourly = schedule.Schedule(
            tenant="acme",
            id="hourly",
            cron="@hourly",
            template=template,
            create_time=self.time,
            update_time=self.time,
        )
        return await self.schedules.add(with_first_run(replace(hourly, **fields)))  # type: ignore[arg-type]

    async def step_at(self, time: datetime) -> list[datetime]:
        """Run a step at *time*; return when all jobs so far were created."""
        self.time = time
        await self.scheduler.step()
        page = await self.jobs.list_page(Query(tenant="acme", limit=1000, descending=False))
        return [job.create_time for job in page.jobs]

    async def schedule(self) -> schedule.Schedule:
        return await self.schedules.get("acme", "hourly")


@pytest.fixture
def harness(store: SqlStore) -> SchedulerHarness:
    return SchedulerHarness(store)


async def test_each_time_creates_one_job(harness):
    """A schedule creates no job before its time, and one job at it however many steps follow."""
    await harness.add()
    assert await harness.step_at(START + 0.9 * HOUR) == []
    first = START + HOUR + timedelta(seconds=2)
    assert await harness.step_at(first) == [first]
    assert await harness.step_at(first + timedelta(seconds=1)) == [first]
    assert await harness.step_at(START + 2 * HOUR) == [first, START + 2 * HOUR]
    assert (await harness.schedule()).next_run_time == START + 3 * HOUR


async def test_each_run_begins_a_trace(harness):
    """The job of a run is in the trace of the run, which is no part of the one that created the schedule."""
    recorded: list[spans.RecordedSpan] = []
    spans.configure(recorded.append)
    try:
        created = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        template = (await harness.add()).template.replace_fields(traceparent=created)
        await harness.schedules.change("acme", "hourly", lambda s: replace(s, template=template))
        await harness.step_at(START + HOUR)
        await harness.step_at(START + 2 * HOUR)
    finally:
        spans.configure(None)
    page = await harness.jobs.list_page(Query(tenant="acme", limit=2, descending=False))
    runs = [span for span in recorded if span.name == "run schedule"]
    jobs = [await harness.jobs.get(job.id) for job in page.jobs]
    assert [job.traceparent for job in jobs] == [run.traceparent for run in runs]
    assert len({run.trace_id for run in runs} | {created[3:35]}) == 3
    assert [run.attributes["reelhaul.job"] for run in runs] == [job.name for job in jobs]


async def test_missed_times_are_skipped(harness):
    """Times missed by long are skipped; one missed by minutes is created up for."""
    await harness.add()
    assert await harness.step_at(START + 5.5 * HOUR) == []
    assert (await harness.schedule()).next_run_time == START + 6 * HOUR
    late = START + 8 * HOUR + timedelta(minutes=4)
    assert await harness.step_at(late) == [late]


async def test_catch_up_once(harness):
    """With ONCE, one job is created for all missed times."""
    await harness.add(catch_up=CatchUp.ONCE)
    now = START + 5.5 * HOUR
    assert await harness.step_at(now) == [now]
    assert await harness.step_at(now + timedelta(minutes=1)) == [now]
    assert (await harness.schedule()).next_run_time == START + 6 * HOUR


@pytest.mark.parametrize(("catch_up", "number"), [(CatchUp.SKIP, 0), (CatchUp.ONCE, 1)])
async def test_times_missed_in_a_pause(harness, catch_up, number):
    """A resumed schedule treats the times of its pause by its catch_up."""
    await harness.add(catch_up=catch_up)
    await harness.schedules.change("acme", "hourly", lambda s: schedule.pause(s, harness.time))
    assert await harness.step_at(START + 5.5 * HOUR) == []
    await harness.schedules.change("acme", "hourly", lambda s: schedule.resume(s, harness.time))
    assert len(await harness.step_at(START + 5.6 * HOUR)) == number
    assert len(await harness.step_at(START + 6 * HOUR)) == number + 1


async def test_skip_overlapping(harness):
    """skip_overlapping skips a run while a job is active, reports it, and continues when that has ended."""
    await harness.add(skip_overlapping=True)
    assert len(await harness.step_at(START + HOUR)) == 1
    assert len(await harness.step_at(START + 2 * HOUR)) == 1
    skipped = await harness.schedule()
    assert skipped.last_error is not None
    assert "is live" in skipped.last_error.message
    assert skipped.failures == 0
    await harness.jobs.change(skipped.last_job, lambda job: queue_transitions.cancel(job, harness.time))
    assert len(await harness.step_at(START + 3 * HOUR)) == 2
    assert (await harness.schedule()).last_error is None


async def test_five_failed_runs_disable_it(harness):
    """Five failed runs in a row disable a schedule; it reports why, and may be resumed."""
    await harness.add()
    harness.forbidden = True
    for hour in range(1, 6):
        assert (await harness.schedule()).state is ScheduleState.ENABLED
        assert await harness.step_at(START + hour * HOUR) == []
    disabled = await harness.schedule()
    assert (disabled.state, disabled.next_run_time) == (ScheduleState.DISABLED, None)
    assert disabled.last_error is not None
    assert disabled.last_error.message == "not any more"
    harness.forbidden = False
    await harness.schedules.change("acme", "hourly", lambda s: schedule.resume(s, harness.time))
    assert len(await harness.step_at(START + 6 * HOUR)) == 1
    assert (await harness.schedule()).failures == 0


async def test_end_time(harness):
    """After the last time before its end_time a schedule is disabled, and cannot be resumed."""
    await harness.add(end_time=START + 2.5 * HOUR)
    assert len(await harness.step_at(START + HOUR)) == 1
    assert len(await harness.step_at(START + 2 * HOUR)) == 2
    ended = await harness.schedule()
    assert ended.state is ScheduleState.DISABLED
    assert len(await harness.step_at(START + 3 * HOUR)) == 2
    with pytest.raises(StateConflict):
        schedule.resume(ended, harness.time)


@pytest.fixture
async def stub(settings):
    async with (
        run_service(settings) as service,
        open_channel(f"127.0.0.1:{service.port}", SERVICES, suite_token=TOKEN) as inside,
    ):
        yield schedule_service_pb2_grpc.ScheduleServiceStub(inside), service


def schedule_message(**fields) -> Schedule:
    return Schedule(
        **{"cron": "0 6 * * *", "job_template": Job(url=URL, format={"max_height": 720}), **fields}
    )


async def test_from_create_to_delete(stub):
    """A schedule is created, read, listed, changed, paused, resumed, run and deleted."""
    schedules, service = stub
    created = await schedules.CreateSchedule(
        CreateScheduleRequest(schedule=schedule_message(time_zone="Europe/Berlin"), schedule_id="morning")
    )
    assert (created.name, created.state, created.time_zone) == (
        "schedules/morning",
        Schedule.ENABLED,
        "Europe/Berlin",
    )
    assert created.next_run_time.ToDatetime(UTC).hour in (4, 5)
    assert created.job_template.retry_policy.max_attempts == 3
    name = created.name
    assert await schedules.GetSchedule(GetScheduleRequest(name=name)) == created

    mask = field_mask_pb2.FieldMask(paths=["cron", "job_template.priority"])
    change = schedule_message(
        name=name, etag=created.etag, cron="@every 6h", job_template=Job(priority=Job.HIGH)
    )
    changed = await schedules.UpdateSchedule(UpdateScheduleRequest(schedule=change, update_mask=mask))
    assert (changed.cron, changed.job_template.priority, changed.job_template.url) == (
        "@every 6h",
        Job.HIGH,
        URL,
    )
    assert changed.next_run_time != created.next_run_time
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await schedules.UpdateSchedule(UpdateScheduleRequest(schedule=change, update_mask=mask))
    assert reason_of(failure) == "ETAG_MISMATCH"

    paused = await schedules.PauseSchedule(PauseScheduleRequest(name=name))
    assert (paused.state, paused.HasField("next_run_time")) == (Schedule.PAUSED, False)
    once = RunScheduleRequest(name=name, request_id="00000000-0000-4000-8000-000000000001")
    job = await schedules.RunSchedule(once)
    assert (job.schedule, job.priority, job.format.max_height) == (name, Job.HIGH, 720)
    assert (await schedules.RunSchedule(once)).name == job.name
    listed = await service.jobs.ListJobs(ListJobsRequest(filter=f'schedule = "{name}"'))
    assert [one.name for one in listed.jobs] == [job.name]
    resumed = await schedules.ResumeSchedule(ResumeScheduleRequest(name=name))
    assert (resumed.state, resumed.last_job) == (Schedule.ENABLED, job.name)

    await schedules.DeleteSchedule(DeleteScheduleRequest(name=name))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await schedules.GetSchedule(GetScheduleRequest(name=name))
    assert reason_of(failure) == "RESOURCE_NOT_FOUND"


async def test_lists(stub):
    """Pages follow each other in order, filtered; a token of another list is rejected."""
    schedules, _ = stub
    for number in range(5):
        created = CreateScheduleRequest(
            schedule=schedule_message(cron=f"{number} 6 * * *"), schedule_id=f"s{number}"
        )
        await schedules.CreateSchedule(created)
    await schedules.PauseSchedule(PauseScheduleRequest(name="schedules/s2"))
    names, token = [], ""
    while token or not names:
        query = ListSchedulesRequest(
            page_size=2, page_token=token, filter="state = ENABLED", order_by="next_run_time"
        )
        page = await schedules.ListSchedules(query)
        names += [one.name for one in page.schedules]
        token = page.next_page_token
    assert names == [f"schedules/s{number}" for number in (0, 1, 3, 4)]
    first = await schedules.ListSchedules(ListSchedulesRequest(page_size=1))
    assert first.schedules[0].name == "schedules/s4"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await schedules.ListSchedules(
            ListSchedulesRequest(page_token=first.next_page_token, order_by="next_run_time")
        )
    assert reason_of(failure) == "PAGE_TOKEN_INVALID"


async def test_new_entries_only_creates_expansions(stub):
    """A schedule with new_entries_only creates expansions, whatever kind its template names."""
    schedules, _ = stub
    created = await schedules.CreateSchedule(
        CreateScheduleRequest(schedule=schedule_message(new_entries_only=True))
    )
    job = await schedules.RunSchedule(RunScheduleRequest(name=created.name))
    assert (job.kind, job.expansion.new_entries_only, job.expansion.max_entries) == (Job.EXPANSION, True, 100)
    assert job.batch_id


async def test_validate_only(stub):
    """validate_only returns the time of the first run, and stores nothing."""
    schedules, _ = stub
    response = await schedules.CreateSchedule(
        CreateScheduleRequest(schedule=schedule_message(), validate_only=True)
    )
    assert response.HasField("next_run_time")
    assert not (await schedules.ListSchedules(ListSchedulesRequest())).schedules


async def test_scheduler_loop_runs_due_schedules(stub):
    """The scheduler loop runs the schedules whose time has come."""
    schedules, service = stub
    created = await schedules.CreateSchedule(
        CreateScheduleRequest(schedule=schedule_message(cron="0 0 1 1 *"))
    )
    # Make it due now rather than in a year.
    with closing(sqlite3.connect(service.settings.data_dir / "jobs.db")) as database, database:
        database.execute("UPDATE schedules SET next_run_time = ?", [time.time_ns() // 1000])

    async def has_run():
        return (await schedules.GetSchedule(GetScheduleRequest(name=created.name))).last_job

    await eventually(has_run)
    assert (await service.jobs.ListJobs(ListJobsRequest())).total_size == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "0 0 31 2 *"}, "schedule.cron"),
        ({"cron": "whenever"}, "schedule.cron"),
        ({"cron": ""}, "schedule.cron"),
        ({"time_zone": "Mars/Olympus"}, "schedule.time_zone"),
        ({"job_template": Job(url="file:///etc/passwd")}, "schedule.job_template.url"),
        ({"job_template": Job(url=URL, schedule_time={"seconds": 4102444800})}, "job_template.schedule_time"),
        (
            {"job_template": Job(url=URL, expansion=Expansion(max_entries=5))},
            "schedule.job_template.expansion",
        ),
        ({"end_time": {"seconds": 1}}, "schedule.end_time"),
        ({"cron": "@monthly", "end_time": "soon"}, "schedule.end_time"),
    ],
)
async def test_invalid_schedules(stub, fields, field):
    """An invalid schedule is rejected with the field's name, and nothing is stored."""
    schedules, _ = stub
    if fields.get("end_time") == "soon":
        fields = {**fields, "end_time": datetime.now(UTC) + timedelta(minutes=1)}
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await schedules.CreateSchedule(CreateScheduleRequest(schedule=schedule_message(**fields)))
    assert reason_of(failure) in ("FIELD_INVALID", "URL_INVALID")
    assert field in failure.value.details()
    assert not (await schedules.ListSchedules(ListSchedulesRequest())).schedules
