"""Rows of jobs: which columns a change writes, and what is read back."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

from google.rpc import status_pb2

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.job import Delivery, Expansion, Job
from reelhaul_jobs.model.states import DeliveryState, Priority, QueueStage, State
from reelhaul_jobs.store import rows

NOW = datetime(2030, 1, 1, tzinfo=UTC)
JOB = Job(
    id="1",
    tenant="acme",
    url="https://videos.example/1",
    format=media_pb2.FormatSpec(),
    create_time=NOW,
    update_time=NOW,
)
OTHER = {
    "priority": Priority.HIGH,
    "labels": {"a": "b"},
    "schedule_time": NOW,
    "ttl": timedelta(days=1),
    "expire_time": NOW,
    "state": State.RUNNING,
    "attempt": 2,
    "epoch": 3,
    "charged": 4,
    "revision": 5,
    "queue_stage": QueueStage.LEASED,
    "due": NOW,
    "worker": "w",
    "avoid_until": NOW,
    "claim_id": "c",
    "egress": "e",
    "failures": {"NETWORK": 1},
    "update_time": NOW + timedelta(seconds=1),
    "start_time": NOW,
    "end_time": NOW,
    "confirm_time": NOW,
    "delete_time": NOW,
    "cascade_time": NOW,
    "expansion": Expansion(job_count=1),
    "progress": media_pb2.Progress(percent=1),
    "error": status_pb2.Status(code=5),
    "media": media_pb2.MediaInfo(title="A video", extractor="x"),
    "got": media_pb2.DeliveredMedia(height=1),
    "artifacts": (media_pb2.ArtifactInfo(name="artifacts/1"),),
    "warnings": (media_pb2.Warning(message="!"),),
    "deliveries": (
        Delivery(
            artifact="artifacts/1",
            state=DeliveryState.RUNNING,
            uri="s3://a/b",
            error=status_pb2.Status(code=9),
            attempt_count=2,
            due=NOW,
            deadline=NOW,
            update_time=NOW,
        ),
    ),
    "delivery_time": NOW,
    "recording_stop_time": NOW,
    "quota_day": 21915,
    "reserved_bytes": 100,
    "stored_bytes": 7,
}
# Set once, when the job is created.
FIXED = {
    "id",
    "tenant",
    "url",
    "format",
    "create_time",
    "kind",
    "retry",
    "attempt_deadline",
    "batch_id",
    "traceparent",
    "schedule",
    "parent",
    "position",
    "deliver_to",
    "api_key",
}


def test_only_changed_columns_are_written():
    """Whatever field of a job changes, exactly the columns that hold it are written."""
    assert {field.name for field in fields(Job)} == FIXED | OTHER.keys()
    before = rows.mutable_columns(JOB)
    for name, value in OTHER.items():
        changed = replace(JOB, **{name: value})  # type: ignore[arg-type]
        after = rows.mutable_columns(changed)
        assert rows.changed_columns(JOB, changed) == {
            column: value for column, value in after.items() if value != before[column]
        }
    assert rows.changed_columns(JOB, replace(JOB, **OTHER)).keys() == before.keys()  # type: ignore[arg-type]


def test_equal_values_are_not_written():
    """A value that is equal, though not identical, is not written."""
    equal = replace(JOB, labels={}, format=media_pb2.FormatSpec(), failures={})
    assert rows.changed_columns(JOB, equal) == {}


def test_a_job_is_read_as_it_was_written():
    """The job of a row has every field, and equals the job that was written."""
    job = JOB.replace_fields(
        url="https://www.videos.example/watch?v=1",
        labels={"a": "b"},
        failures={"NETWORK": 2},
        due=NOW,
        expansion=Expansion(job_count=3),
        deliver_to="media",
        deliveries=OTHER["deliveries"],
        delivery_time=NOW,
    )
    read = rows.job_from_row(rows.row_from_job(job))
    assert read == job
    assert read.site == "videos.example"
    assert {field.name for field in fields(Job)} <= vars(read).keys()
