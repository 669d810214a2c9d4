"""find_violations reports each way in which a job can be lost, doubled, stale or leave something behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.chaos.audit import AuditEntry, JobRow
from tests.chaos.invariants import Observations, StoredFiles, find_violations
from tests.chaos.requested_jobs import RequestedJob
from tests.chaos.videos import Video

from reelhaul.jobs.v1.job_pb2 import Job

_VIDEO = Video("/media/video-1.mp4", "http://127.0.0.2:1/media/video-1.mp4", "ab" * 32)


def _entries(*changes: tuple[int, int, int]) -> list[AuditEntry]:
    """Return the audit of job ``j``: state, epoch and attempt after each change."""
    before, entries = (0, 0, 0), []
    for number, (state, epoch, attempt) in enumerate(changes, 1):
        old_state, old_epoch, old_attempt = before
        entries.append(
            AuditEntry(
                number=number,
                job="j",
                old_state=old_state,
                state=state,
                old_epoch=old_epoch,
                epoch=epoch,
                old_attempt=old_attempt,
                attempt=attempt,
                old_revision=number - 1,
                revision=number,
                worker="w",
                url="",
            )
        )
        before = (state, epoch, attempt)
    return entries


def _valid() -> Observations:
    """Return the observations of a job that was requeued once and succeeded, without a violation."""
    job = RequestedJob("r", _VIDEO, names={"jobs/j"})
    row = JobRow("j", Job.SUCCEEDED, 2, "", False, False, ((_VIDEO.sha256, "artifacts/a"),))
    changes = [
        (Job.QUEUED, 0, 1),
        (Job.RUNNING, 1, 1),
        (Job.QUEUED, 1, 2),
        (Job.RUNNING, 2, 2),
        (Job.SUCCEEDED, 2, 2),
    ]
    stored = StoredFiles({"a": ("jobs/j", 2)}, {"artifacts/a": _VIDEO.sha256})
    return Observations([job], [row], _entries(*changes), stored, {_VIDEO.path: 2})


def _invariants(observed: Observations) -> set[str]:
    """Return the names of the broken invariants."""
    return {violation.invariant for violation in find_violations(observed)}


def test_no_violation():
    """A valid run has no violation."""
    assert find_violations(_valid()) == []


def test_job_not_ended():
    """A job that has not ended breaks I1; one that is queued after a wipe of the stream, I9."""
    observed = _valid()
    observed.rows = [replace(observed.rows[0], state=Job.RUNNING)]
    assert _invariants(observed) == {"I1"}
    observed.rows = [replace(observed.rows[0], state=Job.QUEUED)]
    observed.wipes = 1
    assert _invariants(observed) == {"I9"}


@pytest.mark.parametrize(
    ("changed_fields", "invariant"),
    [
        pytest.param({"names": set()}, "I1", id="never answered"),
        pytest.param({"names": {"jobs/j", "jobs/k"}}, "I2", id="two jobs for one request"),
        pytest.param({"cancelled": True}, "I8", id="cancel is lost"),
        pytest.param({"update_label": "new"}, "P1", id="update is lost"),
        pytest.param({"tenant": "another"}, "tenant", id="wrong tenant"),
    ],
)
def test_responses(changed_fields: dict[str, object], invariant: str):
    """What the service acknowledged must hold."""
    observed = _valid()
    for name, value in changed_fields.items():
        setattr(observed.jobs[0], name, value)
    assert invariant in _invariants(observed)


def test_refused_job_exists():
    """A job whose create was refused must not exist."""
    observed = _valid()
    observed.jobs[0].names, observed.jobs[0].refused = set(), True
    assert _invariants(observed) == {"I2"}
    observed.rows, observed.audit, observed.stored = [], [], StoredFiles()
    assert _invariants(observed) == set()


def test_accepted_job_is_gone():
    """The row of an accepted job exists unless a client deleted it."""
    observed = _valid()
    observed.rows, observed.stored = [], StoredFiles()
    assert _invariants(observed) == {"I1"}
    observed.jobs[0].deleted = True
    assert _invariants(observed) == set()


@pytest.mark.parametrize(
    ("changes", "invariant"),
    [
        pytest.param([(Job.RUNNING, 3, 3), (Job.SUCCEEDED, 3, 3)], "I2", id="completed twice"),
        pytest.param([(Job.SUCCEEDED, 3, 2)], "I3", id="epoch raised without a claim"),
        pytest.param([(Job.SUCCEEDED, 1, 2)], "I3", id="epoch falls"),
        pytest.param([(Job.SUCCEEDED, 2, 1)], "I4", id="attempt falls"),
        pytest.param([(Job.QUEUED, 2, 3)], "I5", id="terminal state left"),
    ],
)
def test_invalid_history(changes: list[tuple[int, int, int]], invariant: str):
    """An impossible history is reported even if the final row looks right."""
    observed = _valid()
    valid = [(entry.state, entry.epoch, entry.attempt) for entry in observed.audit]
    observed.audit = _entries(*valid, *changes)
    assert invariant in _invariants(observed)


def test_retried_job():
    """A FAILED job is queued again as often as RetryJob was requested, and not more often."""
    observed = _valid()
    failed = [(Job.QUEUED, 0, 1), (Job.RUNNING, 1, 1), (Job.FAILED, 1, 1)]
    observed.audit = _entries(*failed, (Job.QUEUED, 1, 2), (Job.RUNNING, 2, 2), (Job.SUCCEEDED, 2, 2))
    assert _invariants(observed) == {"I5"}
    observed.jobs[0].retries = 1
    assert _invariants(observed) == set()


def test_cancelled_job_runs():
    """A cancelled job starts no new epoch."""
    observed = _valid()
    observed.audit = _entries(
        (Job.QUEUED, 0, 1), (Job.RUNNING, 1, 1), (Job.CANCELLING, 1, 1), (Job.RUNNING, 2, 1)
    )
    assert "I8" in _invariants(observed)


def test_undocumented_transitions():
    """Only documented transitions are allowed, and a paused job is queued only when it is resumed."""
    observed = _valid()
    observed.audit = _entries((Job.QUEUED, 0, 1), (Job.PAUSED, 0, 1), (Job.RUNNING, 1, 1))
    assert _invariants(observed) == {"transitions"}
    resumed = [(Job.QUEUED, 0, 2), (Job.RUNNING, 1, 2), (Job.SUCCEEDED, 1, 2)]
    observed.audit = _entries((Job.QUEUED, 0, 1), (Job.PAUSED, 0, 1), *resumed)
    assert _invariants(observed) == {"transitions"}
    observed.jobs[0].resumes = 1
    assert _invariants(observed) == set()


def test_stale_lease():
    """An artifact of another epoch is no result, and a stale lease must not be renewed."""
    observed = _valid()
    observed.stored = replace(observed.stored, artifacts={"a": ("jobs/j", 1)})
    assert _invariants(observed) == {"I4"}
    observed = _valid()
    observed.stale_renewals = {"j"}
    assert _invariants(observed) == {"I4"}


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(StoredFiles(), id="missing"),
        pytest.param(StoredFiles({"a": ("jobs/j", 2)}, {"artifacts/a": "UNAVAILABLE"}), id="unreadable"),
        pytest.param(StoredFiles({"a": ("jobs/j", 2)}, {"artifacts/a": "00" * 32}), id="wrong bytes"),
    ],
)
def test_artifact_of_succeeded_job(stored: StoredFiles):
    """The artifacts of a SUCCEEDED job are readable and have the recorded digest."""
    observed = _valid()
    observed.stored = stored
    assert _invariants(observed) == {"I6"}


def test_artifact_is_another_video():
    """The artifact of a SUCCEEDED job is the requested video."""
    observed = _valid()
    observed.jobs[0].video = replace(_VIDEO, sha256="cd" * 32)
    assert _invariants(observed) == {"I6"}


def test_failed_without_reason():
    """A job whose video is available does not fail because a process was killed."""
    observed = _valid()
    observed.rows = [replace(observed.rows[0], state=Job.FAILED, error_reason="INTERNAL_ERROR", artifacts=())]
    observed.stored = StoredFiles()
    assert _invariants(observed) == {"P2"}
    observed.jobs[0].unavailable = True
    assert _invariants(observed) == set()


def test_site_limit():
    """No more jobs of a site run at once than its limit."""
    observed = _valid()
    other_job = [replace(entry, job="k") for entry in observed.audit[:2]]
    observed.audit = [*observed.audit[:2], *other_job]
    observed.jobs = [*observed.jobs, RequestedJob("s", _VIDEO, names={"jobs/k"}, deleted=True)]
    observed.site_limit = 2
    assert _invariants(observed) == set()
    observed.site_limit = 1
    assert _invariants(observed) == {"I7"}


@pytest.mark.parametrize(
    "changed_fields",
    [
        {"artifacts": {"a": ("jobs/j", 2), "b": ("jobs/j", 1)}},
        {"orphans": ["staging/x"]},
        {"work": ["j-1"]},
    ],
)
def test_orphans(changed_fields: dict[str, object]):
    """Artifacts of stale leases, files without an artifact and left work folders are reported."""
    observed = _valid()
    observed.stored = replace(observed.stored, **changed_fields)
    assert _invariants(observed) == {"I10"}


def test_quota_ledger():
    """A ledger that does not sum at any moment, or counts a job twice or not at all, is reported."""
    observed = _valid()
    observed.admissions = (1, 1)
    assert _invariants(observed) == set()
    observed.ledger_errors = ["tenants/acme day 0: 100 bytes reserved, 0 by jobs; 0 stored, 0 by jobs"]
    assert _invariants(observed) == {"quota"}
    observed.ledger_errors, observed.admissions = [], (2, 1)
    assert _invariants(observed) == {"quota"}
