"""Invariants that a run must keep, checked from outside: rows, audit, storage and what clients were answered.

I1 every accepted job ends; I2 one job per request_id, completed once; I3 only a claim raises the epoch, by
one; I4 a stale lease changes nothing; I5 terminal states stay, except by RetryJob; I6 the artifacts of a
SUCCEEDED job are readable and right; I7 the site limit holds; I8 a cancelled job does not run again; I9 a
wiped WORK stream loses no job; I10 no orphaned bytes. P1 an acknowledged update is kept; P2 no job fails
because of a crash; P4 a SUCCEEDED job has fetched its video. ``transitions``: only documented state changes;
``tenant``: a job belongs to the tenant that created it; ``responses``: no wrong response; ``quota``: at each
moment the ledger's reserved - settled - released is what live jobs reserve, and it counts each job once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.audit import TERMINAL_STATES, AuditEntry, JobRow
from tests.chaos.requested_jobs import UPDATE_LABEL, RequestedJob

from reelhaul.jobs.v1.job_pb2 import Job

# Often only the consequence of another violation: reported after it.
_CONSEQUENCES = ("I1", "I6", "I9", "I10")

_INSERTED = 0
_RETRYABLE_STATES = (Job.FAILED, Job.CANCELLED)
# Documented transitions of states that are not terminal.
_TRANSITIONS = {
    _INSERTED: {Job.QUEUED},
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
class Violation:
    """A broken invariant. *job* is empty if it is not about one job."""

    invariant: str
    job: str
    text: str


@dataclass
class StoredFiles:
    """What storage holds after all garbage collection."""

    #: Artifact name -> (job, epoch) that it was written for.
    artifacts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    #: Artifact name -> SHA-256 of what ReadArtifact returned, or the name of its error.
    read: Mapping[str, str] = field(default_factory=dict)
    #: Files in storage's folder that belong to no artifact.
    orphans: Sequence[str] = ()
    #: What is left in the fetchers' work folder.
    work: Sequence[str] = ()


@dataclass
class Observations:
    """Everything that was observed of a run."""

    jobs: Sequence[RequestedJob]
    rows: Sequence[JobRow]
    audit: Sequence[AuditEntry]
    stored: StoredFiles
    #: Number of requests for each path of the site.
    requests: Mapping[str, int]
    #: Number of deletions of the WORK stream.
    wipes: int = 0
    #: Jobs of which a stale lease was renewed.
    stale_renewals: Collection[str] = ()
    wrong_responses: Sequence[str] = ()
    #: Running jobs that a site allows at once; 0: no limit.
    site_limit: int = 0
    #: Where the quota ledger did not sum, at any moment of the run.
    ledger_errors: Sequence[str] = ()
    #: Jobs that the quota ledger counts, and that were created or retried.
    admissions: tuple[int, int] = (0, 0)


def find_violations(observed: Observations) -> list[Violation]:
    """Return every violation, probable causes before consequences."""
    history = _entries_by_job(observed.audit)
    violations = [
        *_check_created_once(observed),
        *_check_ended(observed),
        *_check_outcomes(observed),
        *_check_site_limit(observed.audit, observed.site_limit),
        *_check_artifacts(observed),
        *_check_orphans(observed),
        *(Violation("I4", job, "a stale lease was renewed") for job in observed.stale_renewals),
        *(Violation("responses", "", text) for text in observed.wrong_responses),
        *_check_quotas(observed),
    ]
    jobs = {job.id: job for job in observed.jobs}
    for job_id, entries in history.items():
        job = jobs.get(job_id)
        retries, resumes = (job.retries, job.resumes) if job else (0, 0)
        violations += _check_history(job_id, entries, retries, resumes)
    return sorted(violations, key=lambda violation: violation.invariant in _CONSEQUENCES)


def _check_created_once(observed: Observations) -> Iterator[Violation]:
    """I2: one request_id makes one job, and no other jobs exist."""
    for job in observed.jobs:
        if len(job.names) > 1:
            yield Violation("I2", job.id, f"one request_id made {len(job.names)} jobs")
    requested = {job.id for job in observed.jobs}
    for job_id in {entry.job for entry in observed.audit} - requested:
        yield Violation("I2", job_id, "no response named this job: a repeated call made two")


def _check_ended(observed: Observations) -> Iterator[Violation]:
    """I1, I9: every accepted job ends."""
    rows = {row.id: row for row in observed.rows}
    for job in observed.jobs:
        row = rows.get(job.id)
        if not job.names and not job.refused:
            yield Violation("I1", job.request_id, "CreateJob was never answered")
        elif row is None and job.names and not job.deleted:
            yield Violation("I1", job.id, "accepted, and its row is gone")
        elif row is not None and not row.is_terminal:
            name = "I9" if row.state == Job.QUEUED and observed.wipes else "I1"
            yield Violation(name, job.id, f"accepted, and still {Job.State.Name(row.state)}")
        elif row is not None and row.unconfirmed:
            yield Violation("I1", job.id, "ended, and storage did not confirm its artifacts")


def _check_outcomes(observed: Observations) -> Iterator[Violation]:
    """I8, P1, P2, P4, tenant: the client and the site decide how a job ends, crashes do not."""
    rows = {row.id: row for row in observed.rows}
    for job in observed.jobs:
        row = rows.get(job.id)
        if row is None or row.deleted:
            continue
        if row.tenant != job.tenant:
            yield Violation("tenant", job.id, f"created by {job.tenant}, and belongs to {row.tenant}")
        if job.update_label and row.labels.get(UPDATE_LABEL) != job.update_label:
            yield Violation("P1", job.id, "its update was acknowledged, and its row does not show it")
        if job.cancelled and row.state != Job.CANCELLED:
            yield Violation("I8", job.id, f"its cancel was acknowledged, and it is {_state_name(row.state)}")
        if row.state == Job.FAILED and not job.unavailable and not job.few_attempts:
            yield Violation("P2", job.id, f"its video is available, and it failed: {row.error_reason}")
        if row.state == Job.SUCCEEDED and not observed.requests.get(job.video.path):
            yield Violation("P4", job.id, "succeeded, and its video was never requested")
        if row.state == Job.CANCELLED and row.epoch == 0 and observed.requests.get(job.video.path):
            yield Violation("I8", job.id, "cancelled before it was claimed, and its video was requested")


def _check_artifacts(observed: Observations) -> Iterator[Violation]:
    """I4, I6: a SUCCEEDED job's artifacts are readable, right, and written under its last lease."""
    videos = {job.id: job.video for job in observed.jobs}
    for row in observed.rows:
        if row.state != Job.SUCCEEDED or row.deleted:
            continue
        if not row.artifacts:
            yield Violation("I6", row.id, "succeeded, and has no artifact")
        for sha256, name in row.artifacts:
            owner = observed.stored.artifacts.get(name.removeprefix("artifacts/"))
            read = observed.stored.read.get(name, "nothing")
            if owner is None:
                yield Violation("I6", row.id, f"{name} is not in storage")
            elif owner != (f"jobs/{row.id}", row.epoch):
                yield Violation("I4", row.id, f"epoch {row.epoch} succeeded with an artifact of {owner}")
            elif read != sha256:
                yield Violation("I6", row.id, f"{name} should have digest {sha256}, and reads as {read}")
            elif row.id in videos and sha256 != videos[row.id].sha256:
                yield Violation("I6", row.id, f"{name} is not the site's {videos[row.id].path}")


def _check_orphans(observed: Observations) -> Iterator[Violation]:
    """I10: no artifacts, blobs or work files that belong to no job."""
    referenced = {name for row in observed.rows for _, name in row.artifacts}
    for name, (job, epoch) in observed.stored.artifacts.items():
        if f"artifacts/{name}" not in referenced:
            yield Violation(
                "I10", job.removeprefix("jobs/"), f"artifact {name} of epoch {epoch} belongs to no job"
            )
    for path in observed.stored.orphans:
        yield Violation("I10", "", f"orphan bytes in storage: {path}")
    for path in observed.stored.work:
        yield Violation("I10", path.rpartition("-")[0], f"left in the work folder: {path}")


def _check_history(
    job: str, entries: Sequence[AuditEntry], retries: int, resumes: int
) -> Iterator[Violation]:
    """I2 to I5, I8, transitions: check the changes of one job, in their order.

    *retries* and *resumes*: how often the client requested them.
    """
    retried = resumed = 0
    if sum(entry.state == Job.SUCCEEDED != entry.old_state for entry in entries) > 1:
        yield Violation("I2", job, "completed more than once")
    for entry in entries:
        # A claim takes the next epoch; nothing else changes it.
        claimed = entry.state == Job.RUNNING != entry.old_state
        if entry.epoch != entry.old_epoch + claimed:
            yield Violation("I3", job, f"epoch {entry.old_epoch} became {entry.epoch} in {_change(entry)}")
        if entry.old_revision > entry.revision or entry.old_attempt > entry.attempt:
            yield Violation("I4", job, f"its revision or attempt fell in {_change(entry)}")
        if entry.old_state in TERMINAL_STATES and entry.state != entry.old_state:
            retried += 1
            if entry.old_state not in _RETRYABLE_STATES or entry.state != Job.QUEUED or retried > retries:
                yield Violation("I5", job, f"{_change(entry)} without RetryJob")
        elif entry.state != entry.old_state and entry.state not in _TRANSITIONS[entry.old_state]:
            yield Violation("transitions", job, f"{_change(entry)} is no transition")
        resumed += entry.old_state == Job.PAUSED and entry.state == Job.QUEUED
        if entry.old_state in (Job.CANCELLING, Job.CANCELLED) and entry.state == Job.RUNNING:
            yield Violation("I8", job, f"cancelled, and started epoch {entry.epoch}")
    if resumed > resumes:
        yield Violation("transitions", job, f"resumed {resumed} times, requested {resumes} times")


def _check_quotas(observed: Observations) -> Iterator[Violation]:
    """quota: the ledger sums at each moment, and counts each job once."""
    for error in observed.ledger_errors:
        yield Violation("quota", "", error)
    counted, created = observed.admissions
    if counted != created:
        yield Violation("quota", "", f"{created} jobs were created or retried, and {counted} are counted")


def _check_site_limit(audit: Sequence[AuditEntry], site_limit: int) -> Iterator[Violation]:
    """I7: no more jobs of a site run at once than its limit. All jobs of a run have the same site."""
    if not site_limit:
        return
    running: set[str] = set()
    for entry in audit:
        is_running = entry.state in (Job.RUNNING, Job.CANCELLING)
        running = running | {entry.job} if is_running else running - {entry.job}
        if len(running) > site_limit:
            yield Violation(
                "I7", entry.job, f"{len(running)} jobs of its site run, the limit is {site_limit}"
            )
            return


def _change(entry: AuditEntry) -> str:
    return f"{_state_name(entry.old_state)} -> {_state_name(entry.state)}"


def _state_name(state: int) -> str:
    return Job.State.Name(state) if state != _INSERTED else "inserted"


def _entries_by_job(audit: Sequence[AuditEntry]) -> dict[str, list[AuditEntry]]:
    by_job: dict[str, list[AuditEntry]] = defaultdict(list)
    for entry in audit:
        by_job[entry.job].append(entry)
    return by_job
