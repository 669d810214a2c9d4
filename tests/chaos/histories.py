"""Histories: what a job may do from one change to the next, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.audit import Entry

from reelhaul.jobs.v1.job_pb2 import Job

ENDED = (Job.SUCCEEDED, Job.FAILED, Job.CANCELLED)

_REOPENED = (Job.FAILED, Job.CANCELLED)
_BORN = 0
# What may follow on a state that is not the end, as the API tells it.
_ROADS = {
    _BORN: {Job.QUEUED},
    Job.QUEUED: {Job.RUNNING, Job.CANCELLED, Job.PAUSED},
    Job.RUNNING: {
        Job.QUEUED,
        Job.RETRYING,
        Job.SUCCEEDED,
        Job.FAILED,
        Job.CANCELLING,
        Job.PAUSED,
    },
    Job.RETRYING: {Job.QUEUED, Job.CANCELLED, Job.PAUSED},
    Job.CANCELLING: {Job.CANCELLED},
    Job.PAUSED: {Job.QUEUED, Job.CANCELLED},
}


@dataclass(frozen=True)
class Broken:
    """An invariant that does not hold, and for which job; empty where it is for none."""

    invariant: str
    job: str
    text: str


def broken(job: str, entries: Sequence[Entry], retries: int, resumes: int) -> Iterator[Broken]:
    """I2 to I5, I8 and the roads, of one job's changes in their order.

    *retries* and *resumes*: how often its user asked for them.
    """
    reopened = resumed = 0
    if sum(entry.state == Job.SUCCEEDED != entry.old_state for entry in entries) > 1:
        yield Broken("I2", job, "completed more than once")
    for entry in entries:
        if not _epoch_is_right(entry):
            yield Broken("I3", job, f"epoch {entry.old_epoch} became {entry.epoch} in {_moved(entry)}")
        if entry.old_revision > entry.revision or entry.old_attempt > entry.attempt:
            yield Broken("I4", job, f"its revision or attempt fell in {_moved(entry)}")
        if entry.old_state in ENDED and entry.state != entry.old_state:
            reopened += 1
            if entry.old_state not in _REOPENED or entry.state != Job.QUEUED or reopened > retries:
                yield Broken("I5", job, f"was {_moved(entry)} without being retried")
        elif entry.state != entry.old_state and entry.state not in _ROADS[entry.old_state]:
            yield Broken("roads", job, f"no road leads {_moved(entry)}")
        resumed += entry.old_state == Job.PAUSED and entry.state == Job.QUEUED
        if entry.old_state in (Job.CANCELLING, Job.CANCELLED) and entry.state == Job.RUNNING:
            yield Broken("I8", job, f"cancelled, and started epoch {entry.epoch}")
    if resumed > resumes:
        yield Broken("roads", job, f"resumed {resumed} times, asked for {resumes}")


def _epoch_is_right(entry: Entry) -> bool:
    """A claim takes the next epoch, and nothing else touches it."""
    begins = entry.state == Job.RUNNING != entry.old_state
    return entry.epoch == entry.old_epoch + begins


def crowded(audit: Sequence[Entry], site_limit: int) -> Iterator[Broken]:
    """I7: no more of a site's jobs run at once than it allows; here there is but one site."""
    if not site_limit:
        return
    running: set[str] = set()
    for entry in audit:
        holds = entry.state in (Job.RUNNING, Job.CANCELLING)
        running = running | {entry.job} if holds else running - {entry.job}
        if len(running) > site_limit:
            yield Broken("I7", entry.job, f"{len(running)} jobs of its site run, {site_limit} may")
            return


def _moved(entry: Entry) -> str:
    old = Job.State.Name(entry.old_state) if entry.old_state else "born"
    return f"{old} -> {Job.State.Name(entry.state)}"
