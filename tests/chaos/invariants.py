"""The invariants, I1 to I10, as pure questions to what was seen from outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos import histories
from tests.chaos.audit import Entry, Row
from tests.chaos.histories import Broken
from tests.chaos.requested_jobs import MARK, Wish

from reelhaul.jobs.v1.job_pb2 import Job

# What often follows where another one is broken: told after that.
_CONSEQUENCES = ("I1", "I6", "I9", "I10")


@dataclass
class Stored:
    """What storage has, once everything that may be swept is swept."""

    #: Artifact name -> (job, epoch) that it was written for.
    artifacts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    #: Artifact name -> SHA-256 of what ReadArtifact gave; the failure's name where it gave nothing.
    read: Mapping[str, str] = field(default_factory=dict)
    #: Files under storage's folder that no artifact means.
    strays: Sequence[str] = ()
    #: What is left in the fetchers' work folder.
    work: Sequence[str] = ()


@dataclass
class Facts:
    """All that was seen."""

    wishes: Sequence[Wish]
    rows: Sequence[Row]
    audit: Sequence[Entry]
    stored: Stored
    #: How often each path of the site was asked for.
    requests: Mapping[str, int]
    #: How often the broker's WORK stream was deleted.
    wipes: int = 0
    #: Jobs of which a lease was renewed that was not their newest.
    believed: Collection[str] = ()
    oddities: Sequence[str] = ()
    #: Running jobs that a site allows at once; 0: as many as there are.
    site_limit: int = 0


def broken(facts: Facts) -> list[Broken]:
    """Every invariant that *facts* show broken."""
    history = _by_job(facts.audit)
    found = [
        *_accepted_once(facts),
        *_ended(facts),
        *_as_wished(facts),
        *histories.crowded(facts.audit, facts.site_limit),
        *_files(facts, history),
        *_leftovers(facts),
        *(Broken("I4", job, "a lease was renewed that is not its newest") for job in facts.believed),
        *(Broken("answers", "", oddity) for oddity in facts.oddities),
    ]
    wishes = {wish.id: wish for wish in facts.wishes}
    for job, entries in history.items():
        wish = wishes.get(job)
        retries, resumes = (wish.retries, wish.resumes) if wish else (0, 0)
        found += histories.broken(job, entries, retries, resumes)
    return sorted(found, key=lambda each: each.invariant in _CONSEQUENCES)


def _accepted_once(facts: Facts) -> Iterator[Broken]:
    """One request_id is one job, and nothing else is one."""
    for wish in facts.wishes:
        if len(wish.names) > 1:
            yield Broken("I2", wish.id, f"one request_id made {len(wish.names)} jobs")
    asked = {wish.id for wish in facts.wishes}
    for job in {entry.job for entry in facts.audit} - asked:
        yield Broken("I2", job, "nobody was answered with this job: a call that was repeated made two")


def _ended(facts: Facts) -> Iterator[Broken]:
    """I1, I9: every accepted job ends."""
    rows = {row.id: row for row in facts.rows}
    for wish in facts.wishes:
        row = rows.get(wish.id)
        if not wish.names and not wish.refused:
            yield Broken("I1", wish.request_id, "CreateJob was never answered")
        elif row is None and wish.names and not wish.deleted:
            yield Broken("I1", wish.id, "accepted, and its row is gone")
        elif row is not None and not row.terminal:
            name = "I9" if row.state == Job.QUEUED and facts.wipes else "I1"
            yield Broken(name, wish.id, f"accepted, and still {Job.State.Name(row.state)}")
        elif row is not None and row.unconfirmed:
            yield Broken("I1", wish.id, "ended, and storage was never told to keep its artifacts")


def _as_wished(facts: Facts) -> Iterator[Broken]:
    """I8, and P2: a job ends as its user and its site have it, not as crashes will."""
    rows = {row.id: row for row in facts.rows}
    for wish in facts.wishes:
        row = rows.get(wish.id)
        if row is None or row.deleted:
            continue
        if row.tenant != wish.tenant:
            yield Broken("tenant", wish.id, f"asked for by {wish.tenant}, and it is {row.tenant}'s")
        if wish.mark and row.labels.get(MARK) != wish.mark:
            yield Broken("P1", wish.id, "its update was answered, and its row does not show it")
        if wish.cancelled and row.state != Job.CANCELLED:
            yield Broken("I8", wish.id, f"its cancel was answered, and it is {Job.State.Name(row.state)}")
        if row.state == Job.FAILED and not wish.hopeless and not wish.few_attempts:
            yield Broken("P2", wish.id, f"its film is well, and it failed: {row.error_reason}")
        if row.state == Job.SUCCEEDED and not facts.requests.get(wish.film.path):
            yield Broken("P4", wish.id, "succeeded, and its film was never asked for")
        if row.state == Job.CANCELLED and row.epoch == 0 and facts.requests.get(wish.film.path):
            yield Broken("I8", wish.id, "cancelled before it was claimed, and its film was fetched")


def _files(facts: Facts, history: Mapping[str, Sequence[Entry]]) -> Iterator[Broken]:
    """I4, I6: what a SUCCEEDED job shows is there, is right, and was made under its last lease."""
    films = {wish.id: wish.film for wish in facts.wishes}
    for row in facts.rows:
        if row.state != Job.SUCCEEDED or row.deleted:
            continue
        if not row.artifacts:
            yield Broken("I6", row.id, "succeeded, and has no artifact")
        for sha256, name in row.artifacts:
            owner = facts.stored.artifacts.get(name.removeprefix("artifacts/"))
            told = facts.stored.read.get(name, "nothing")
            if owner is None:
                yield Broken("I6", row.id, f"{name} is not in storage")
            elif owner != (f"jobs/{row.id}", row.epoch):
                yield Broken("I4", row.id, f"epoch {row.epoch} succeeded with an artifact of {owner}")
            elif told != sha256:
                yield Broken("I6", row.id, f"{name} should read as {sha256}, and gives {told}")
            elif row.id in films and sha256 != films[row.id].sha256:
                yield Broken("I6", row.id, f"{name} is not the site's {films[row.id].path}")


def _leftovers(facts: Facts) -> Iterator[Broken]:
    """I10: no bytes that nobody means."""
    shown = {name for row in facts.rows for _, name in row.artifacts}
    for name, (job, epoch) in facts.stored.artifacts.items():
        if f"artifacts/{name}" not in shown:
            yield Broken("I10", job.removeprefix("jobs/"), f"artifact {name} of epoch {epoch} is nobody's")
    for stray in facts.stored.strays:
        yield Broken("I10", "", f"orphan bytes in storage: {stray}")
    for left in facts.stored.work:
        yield Broken("I10", left.rpartition("-")[0], f"left in the work folder: {left}")


def _by_job(audit: Sequence[Entry]) -> dict[str, list[Entry]]:
    by_job: dict[str, list[Entry]] = defaultdict(list)
    for entry in audit:
        by_job[entry.job].append(entry)
    return by_job
