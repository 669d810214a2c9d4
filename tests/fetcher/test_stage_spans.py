"""Spans of the stages of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import RecordedSpan

ATTEMPT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def recorded() -> Iterator[list[RecordedSpan]]:
    """The spans of an attempt that is traced, as they ended."""
    ended: list[RecordedSpan] = []
    spans.configure(ended.append)
    with spans.continuing(ATTEMPT):
        yield ended
    spans.configure(None)


def create_reporter() -> ProgressReporter:
    return ProgressReporter(
        "jobs/one",
        1,
        1,
        None,
        recording_started=lambda: None,
        media_file_ready=lambda _: None,
        published=lambda _: None,
        renew_now=lambda: None,
        site="site.example",
    )


async def test_stages_follow_each_other(recorded):
    """Each stage is a span of the attempt until the next begins; the last failed with the work."""
    reporter = create_reporter()

    async def work() -> None:
        for stage in (Progress.PROBING, Progress.DOWNLOADING, Progress.DOWNLOADING, Progress.VERIFYING):
            reporter.on_progress(Progress(stage=stage))
        raise ValueError("https://site.example/?key=secret")

    async with reporter.publishing():
        task = asyncio.create_task(work())
        await asyncio.wait({task})
        reporter.record_end(task)
    assert isinstance(task.exception(), ValueError)
    assert [(span.name, span.error) for span in recorded] == [
        ("probing", ""),
        ("downloading", ""),
        ("verifying", "ValueError"),
    ]
    assert {span.parent_id for span in recorded} == {ATTEMPT[36:52]}
    assert [span.end_ns for span in recorded[:-1]] <= [span.start_ns for span in recorded[1:]]


async def test_stages_of_a_hostile_child(recorded):
    """A child that reports thousands of stages makes a hundred spans."""
    reporter = create_reporter()
    unknown = Progress()
    unknown.MergeFromString(b"\x08\x63")
    async with reporter.publishing():
        for number in range(5000):
            reporter.on_progress(unknown if number % 2 else Progress(stage=Progress.DOWNLOADING))
    assert len(recorded) == 100
    assert {span.name for span in recorded} == {"downloading", "99"}
