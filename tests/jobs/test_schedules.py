"""Schedules over real gRPC, and the scheduler on SQLite with a clock that the test turns."""

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
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_jobs.service.schedules import Scheduler, with_first_run
from reelhaul_runtime.errors import ReelhaulError, StateConflict
from reelhaul_runtime.rpc.channels import open_channel

SERVICES = [schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"]]
START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class House:
    """A scheduler, and a clock that the test turns."""

    def __init__(self, store: SqlStore) -> None:
        self.time = START
        self.jobs = store
        self.schedules = store.schedules
        self.forbidden = False
        news = ChangeNotifier(EventHub(), FakeBus())
        self.scheduler = Scheduler(self.schedules, news, lambda: self.time, self.admit)

    def admit(self, job: model_job.Job) -> None:
        if self.forbidden:
            raise ReelhaulError(ErrorReason.URL_FORBIDDEN, "not any more", metadata={"host": "v.example"})

    async def add(self, **fields: object) -> schedule.Schedule:
        template = model_job.Job(
            id="", tenant="acme", url=URL, format=media_pb2.FormatSpec(), create_time=START, update_time=START
        )
        plain = schedule.Schedule(
            tenant="acme",
            id="hourly",
            cron="@hourly",
            template=template,
            create_time=self.time,
            update_time=self.time,
        )
        return await self.schedules.add(with_first_run(replace(plain, **fields)))  # type: ignore[arg-type]

    async def at(self, time: datetime) -> list[datetime]:
        """When jobs were made, looked at from *time* on."""
        self.time = time
        await self.scheduler.step()
        page = await self.jobs.list_page(Query(tenant="acme", limit=1000, descending=False))
        return [job.create_time for job in page.jobs]

    async def schedule(self) -> schedule.Schedule:
        return await self.schedules.get("acme", "hourly")


@pytest.fixture
def house(store: SqlStore) -> House:
    return House(store)


async def test_each_time_makes_one_job(house):
    """Nothing before its time, one job at it, and no second one however often one looks."""
    await house.add()
    assert await house.at(START + 0.9 * HOUR) == []
    first = START + HOUR + timedelta(seconds=2)
    assert await house.at(first) == [first]
    assert await house.at(first + timedelta(seconds=1)) == [first]
    assert await house.at(START + 2 * HOUR) == [first, START + 2 * HOUR]
    assert (await house.schedule()).next_run_time == START + 3 * HOUR


async def test_missed_times_are_gone(house):
    """After a long silence only the future is worked for; a short one is made up for."""
    await house.add()
    assert await house.at(START + 5.5 * HOUR) == []
    assert (await house.schedule()).next_run_time == START + 6 * HOUR
    late = START + 8 * HOUR + timedelta(minutes=4)
    assert await house.at(late) == [late]


async def test_missed_times_are_caught_up_with_once(house):
    """With ONCE, one job stands for all that were missed."""
    await house.add(catch_up=CatchUp.ONCE)
    now = START + 5.5 * HOUR
    assert await house.at(now) == [now]
    assert await house.at(now + timedelta(minutes=1)) == [now]
    assert (await house.schedule()).next_run_time == START + 6 * HOUR


@pytest.mark.parametrize(("catch_up", "number"), [(CatchUp.SKIP, 0), (CatchUp.ONCE, 1)])
async def test_times_missed_in_a_pause(house, catch_up, number):
    """A resumed schedule treats what its pause cost as it was told to."""
    await house.add(catch_up=catch_up)
    await house.schedules.change("acme", "hourly", lambda s: schedule.pause(s, house.time))
    assert await house.at(START + 5.5 * HOUR) == []
    await house.schedules.change("acme", "hourly", lambda s: schedule.resume(s, house.time))
    assert len(await house.at(START + 5.6 * HOUR)) == number
    assert len(await house.at(START + 6 * HOUR)) == number + 1


async def test_no_second_job_while_one_is_live(house):
    """skip_overlapping leaves a run out, says so, and goes on when the job has ended."""
    await house.add(skip_overlapping=True)
    assert len(await house.at(START + HOUR)) == 1
    assert len(await house.at(START + 2 * HOUR)) == 1
    left_out = await house.schedule()
    assert left_out.last_error is not None
    assert "is live" in left_out.last_error.message
    assert left_out.failures == 0
    await house.jobs.change(left_out.last_job, lambda job: queue_transitions.cancel(job, house.time))
    assert len(await house.at(START + 3 * HOUR)) == 2
    assert (await house.schedule()).last_error is None


async def test_five_failed_runs_stop_it(house):
    """What fails again and again is stopped, says why, and may be resumed."""
    await house.add()
    house.forbidden = True
    for hour in range(1, 6):
        assert (await house.schedule()).state is ScheduleState.ENABLED
        assert await house.at(START + hour * HOUR) == []
    stopped = await house.schedule()
    assert (stopped.state, stopped.next_run_time) == (ScheduleState.DISABLED, None)
    assert stopped.last_error is not None
    assert stopped.last_error.message == "not any more"
    house.forbidden = False
    await house.schedules.change("acme", "hourly", lambda s: schedule.resume(s, house.time))
    assert len(await house.at(START + 6 * HOUR)) == 1
    assert (await house.schedule()).failures == 0


async def test_the_end(house):
    """The last time is worked for; then the schedule is stopped, and cannot be resumed."""
    await house.add(end_time=START + 2.5 * HOUR)
    assert len(await house.at(START + HOUR)) == 1
    assert len(await house.at(START + 2 * HOUR)) == 2
    ended = await house.schedule()
    assert ended.state is ScheduleState.DISABLED
    assert len(await house.at(START + 3 * HOUR)) == 2
    with pytest.raises(StateConflict):
        schedule.resume(ended, house.time)


@pytest.fixture
async def stub(settings):
    async with (
        run_service(settings) as service,
        open_channel(f"127.0.0.1:{service.port}", SERVICES, suite_token=TOKEN) as inside,
    ):
        yield schedule_service_pb2_grpc.ScheduleServiceStub(inside), service


def asked(**fields) -> Schedule:
    return Schedule(
        **{"cron": "0 6 * * *", "job_template": Job(url=URL, format={"max_height": 720}), **fields}
    )


async def test_from_create_to_delete(stub):
    """A schedule is made, read, listed, changed, paused, resumed, run and removed."""
    schedules, service = stub
    made = await schedules.CreateSchedule(
        CreateScheduleRequest(schedule=asked(time_zone="Europe/Berlin"), schedule_id="morning")
    )
    assert (made.name, made.state, made.time_zone) == ("schedules/morning", Schedule.ENABLED, "Europe/Berlin")
    assert made.next_run_time.ToDatetime(UTC).hour in (4, 5)
    assert made.job_template.retry_policy.max_attempts == 3
    name = made.name
    assert await schedules.GetSchedule(GetScheduleRequest(name=name)) == made

    mask = field_mask_pb2.FieldMask(paths=["cron", "job_template.priority"])
    change = asked(name=name, etag=made.etag, cron="@every 6h", job_template=Job(priority=Job.HIGH))
    changed = await schedules.UpdateSchedule(UpdateScheduleRequest(schedule=change, update_mask=mask))
    assert (changed.cron, changed.job_template.priority, changed.job_template.url) == (
        "@every 6h",
        Job.HIGH,
        URL,
    )
    assert changed.next_run_time != made.next_run_time
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
    """Pages follow each other in the order asked, filtered; a token of another list is refused."""
    schedules, _ = stub
    for number in range(5):
        created = CreateScheduleRequest(schedule=asked(cron=f"{number} 6 * * *"), schedule_id=f"s{number}")
        await schedules.CreateSchedule(created)
    await schedules.PauseSchedule(PauseScheduleRequest(name="schedules/s2"))
    seen, token = [], ""
    while token or not seen:
        query = ListSchedulesRequest(
            page_size=2, page_token=token, filter="state = ENABLED", order_by="next_run_time"
        )
        page = await schedules.ListSchedules(query)
        seen += [one.name for one in page.schedules]
        token = page.next_page_token
    assert seen == [f"schedules/s{number}" for number in (0, 1, 3, 4)]
    first = await schedules.ListSchedules(ListSchedulesRequest(page_size=1))
    assert first.schedules[0].name == "schedules/s4"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await schedules.ListSchedules(
            ListSchedulesRequest(page_token=first.next_page_token, order_by="next_run_time")
        )
    assert reason_of(failure) == "PAGE_TOKEN_INVALID"


async def test_new_entries_only_expands(stub):
    """A schedule for new entries makes expansions, whatever kind its template names."""
    schedules, _ = stub
    made = await schedules.CreateSchedule(CreateScheduleRequest(schedule=asked(new_entries_only=True)))
    job = await schedules.RunSchedule(RunScheduleRequest(name=made.name))
    assert (job.kind, job.expansion.new_entries_only, job.expansion.max_entries) == (Job.EXPANSION, True, 100)
    assert job.batch_id


async def test_only_looking(stub):
    """validate_only answers with the first run, and keeps nothing."""
    schedules, _ = stub
    told = await schedules.CreateSchedule(CreateScheduleRequest(schedule=asked(), validate_only=True))
    assert told.HasField("next_run_time")
    assert not (await schedules.ListSchedules(ListSchedulesRequest())).schedules


async def test_a_schedule_runs_by_itself(stub):
    """The loop finds what is due in the rows."""
    schedules, service = stub
    made = await schedules.CreateSchedule(CreateScheduleRequest(schedule=asked(cron="0 0 1 1 *")))
    # Its time has come: nobody waits a year for it.
    with closing(sqlite3.connect(service.settings.data_dir / "jobs.db")) as database, database:
        database.execute("UPDATE schedules SET next_run_time = ?", [time.time_ns() // 1000])

    async def ran():
        return (await schedules.GetSchedule(GetScheduleRequest(name=made.name))).last_job

    await eventually(ran)
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
async def test_bad_schedules(stub, fields, field):
    """What a schedule may not be is refused by the field's name, and nothing is kept."""
    schedules, _ = stub
    if fields.get("end_time") == "soon":
        fields = {**fields, "end_time": datetime.now(UTC) + timedelta(minutes=1)}
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await schedules.CreateSchedule(CreateScheduleRequest(schedule=asked(**fields)))
    assert reason_of(failure) in ("FIELD_INVALID", "URL_INVALID")
    assert field in failure.value.details()
    assert not (await schedules.ListSchedules(ListSchedulesRequest())).schedules
