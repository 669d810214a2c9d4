"""Rows <-> schedules: pure translation, both ways."""

from __future__ import annotations

from typing import Any

from google.rpc import status_pb2

from reelhaul.jobs.v1 import job_pb2
from reelhaul_jobs.api import schedule_messages as messages
from reelhaul_jobs.model.schedule import CatchUp, Schedule, ScheduleState
from reelhaul_jobs.store.rows import micros, micros_or_none, time_of

#: A row by column name.
Row = Any


def row_of(schedule: Schedule) -> dict[str, Any]:
    """All columns of *schedule* but ``seen_count``, which runs count themselves."""
    return {
        "tenant": schedule.tenant,
        "id": schedule.id,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "template": messages.template_proto_of(schedule.template).SerializeToString(),
        "skip_overlapping": schedule.skip_overlapping,
        "new_entries_only": schedule.new_entries_only,
        "catch_up": int(schedule.catch_up),
        "end_time": micros_or_none(schedule.end_time),
        "state": int(schedule.state),
        "next_run_time": micros_or_none(schedule.next_run_time),
        "last_job": schedule.last_job,
        "last_error": schedule.last_error.SerializeToString() if schedule.last_error else None,
        "failures": schedule.failures,
        "revision": schedule.revision,
        "create_time": micros(schedule.create_time),
        "update_time": micros(schedule.update_time),
    }


def schedule_of(row: Row) -> Schedule:
    """The schedule of a row with all columns."""
    created = time_of(row["create_time"])
    error = row["last_error"]
    return Schedule(
        tenant=row["tenant"],
        id=row["id"],
        cron=row["cron"],
        time_zone=row["time_zone"],
        template=messages.template_of(job_pb2.Job.FromString(row["template"]), row["tenant"], created),
        skip_overlapping=bool(row["skip_overlapping"]),
        new_entries_only=bool(row["new_entries_only"]),
        catch_up=CatchUp(row["catch_up"]),
        end_time=None if row["end_time"] is None else time_of(row["end_time"]),
        state=ScheduleState(row["state"]),
        next_run_time=None if row["next_run_time"] is None else time_of(row["next_run_time"]),
        last_job=row["last_job"],
        last_error=None if error is None else status_pb2.Status.FromString(error),
        failures=row["failures"],
        seen_count=row["seen_count"],
        revision=row["revision"],
        create_time=created,
        update_time=time_of(row["update_time"]),
    )
