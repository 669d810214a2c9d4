"""The checker notices each way in which a job can be lost, doubled, stale or leave something behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.chaos import invariants
from tests.chaos.audit import Entry, Row
from tests.chaos.invariants import Facts, Stored
from tests.chaos.requested_jobs import Wish
from tests.chaos.videos import Film

from reelhaul.jobs.v1.job_pb2 import Job

_BORN = 0
_FILM = Film("/media/film-1.mp4", "http://127.0.0.2:1/media/film-1.mp4", "ab" * 32, 7)


def _entries(*steps: tuple[int, int, int]) -> list[Entry]:
    """The audit of job ``j``: state, epoch and attempt after each change."""
    before, entries = (_BORN, 0, 0), []
    for number, (state, epoch, attempt) in enumerate(steps, 1):
        old_state, old_epoch, old_attempt = before
        entries.append(
            Entry(
                number,
                "j",
                old_state,
                state,
                old_epoch,
                epoch,
                old_attempt,
                attempt,
                number - 1,
                number,
                "w",
                "",
            )
        )
        before = (state, epoch, attempt)
    return entries


def _well() -> Facts:
    """A job that was requeued once, succeeded, and shows what it should."""
    wish = Wish("r", _FILM, names={"jobs/j"})
    row = Row("j", Job.SUCCEEDED, 2, "", False, False, ((_FILM.sha256, "artifacts/a"),))
    steps = [
        (Job.QUEUED, 0, 1),
        (Job.RUNNING, 1, 1),
        (Job.QUEUED, 1, 2),
        (Job.RUNNING, 2, 2),
        (Job.SUCCEEDED, 2, 2),
    ]
    stored = Stored({"a": ("jobs/j", 2)}, {"artifacts/a": _FILM.sha256})
    return Facts([wish], [row], _entries(*steps), stored, {_FILM.path: 2})


def _names(facts: Facts) -> set[str]:
    return {each.invariant for each in invariants.broken(facts)}


def test_all_is_well():
    """Where nothing went wrong, nothing is said."""
    assert invariants.broken(_well()) == []


def test_stuck():
    """A job that has not ended breaks I1; one that hangs on a wiped queue, I9."""
    facts = _well()
    facts.rows = [replace(facts.rows[0], state=Job.RUNNING)]
    assert _names(facts) == {"I1"}
    facts.rows = [replace(facts.rows[0], state=Job.QUEUED)]
    facts.wipes = 1
    assert _names(facts) == {"I9"}


@pytest.mark.parametrize(
    ("spoilt", "invariant"),
    [
        pytest.param({"names": set()}, "I1", id="never answered"),
        pytest.param({"names": {"jobs/j", "jobs/k"}}, "I2", id="two jobs of one request"),
        pytest.param({"cancelled": True}, "I8", id="a cancel that did not hold"),
        pytest.param({"mark": "new"}, "P1", id="an update that did not hold"),
        pytest.param({"tenant": "another"}, "tenant", id="another tenant's"),
    ],
)
def test_answers(spoilt: dict[str, object], invariant: str):
    """What a client was answered holds."""
    facts = _well()
    for name, value in spoilt.items():
        setattr(facts.wishes[0], name, value)
    assert invariant in _names(facts)


def test_refused_and_there():
    """A job that was refused is not there."""
    facts = _well()
    facts.wishes[0].names, facts.wishes[0].refused = set(), True
    assert _names(facts) == {"I2"}
    facts.rows, facts.audit, facts.stored = [], [], Stored()
    assert _names(facts) == set()


def test_accepted_and_gone():
    """A row that nobody deleted is not gone."""
    facts = _well()
    facts.rows, facts.stored = [], Stored()
    assert _names(facts) == {"I1"}
    facts.wishes[0].deleted = True
    assert _names(facts) == set()


@pytest.mark.parametrize(
    ("more", "invariant"),
    [
        pytest.param([(Job.RUNNING, 3, 3), (Job.SUCCEEDED, 3, 3)], "I2", id="completed twice"),
        pytest.param([(Job.SUCCEEDED, 3, 2)], "I3", id="an epoch without a claim"),
        pytest.param([(Job.SUCCEEDED, 1, 2)], "I3", id="an epoch that fell"),
        pytest.param([(Job.SUCCEEDED, 2, 1)], "I4", id="an attempt that fell"),
        pytest.param([(Job.QUEUED, 2, 3)], "I5", id="an end that was none"),
    ],
)
def test_histories(more: list[tuple[int, int, int]], invariant: str):
    """A history that cannot be right is found, whatever the row shows in the end."""
    facts = _well()
    steps = [(entry.state, entry.epoch, entry.attempt) for entry in facts.audit]
    facts.audit = _entries(*steps, *more)
    assert invariant in _names(facts)


def test_retry_is_no_resurrection():
    """FAILED leads on as often as RetryJob was asked for, and not once more."""
    facts = _well()
    failed = [(Job.QUEUED, 0, 1), (Job.RUNNING, 1, 1), (Job.FAILED, 1, 1)]
    facts.audit = _entries(*failed, (Job.QUEUED, 1, 2), (Job.RUNNING, 2, 2), (Job.SUCCEEDED, 2, 2))
    assert _names(facts) == {"I5"}
    facts.wishes[0].retries = 1
    assert _names(facts) == set()


def test_cancelled_and_begun():
    """A cancelled job starts no new epoch."""
    facts = _well()
    facts.audit = _entries(
        (Job.QUEUED, 0, 1), (Job.RUNNING, 1, 1), (Job.CANCELLING, 1, 1), (Job.RUNNING, 2, 1)
    )
    assert "I8" in _names(facts)


def test_roads():
    """A state follows only on one that leads to it, and a paused job goes on only when it is resumed."""
    facts = _well()
    facts.audit = _entries((Job.QUEUED, 0, 1), (Job.PAUSED, 0, 1), (Job.RUNNING, 1, 1))
    assert _names(facts) == {"roads"}
    resumed = [(Job.QUEUED, 0, 2), (Job.RUNNING, 1, 2), (Job.SUCCEEDED, 1, 2)]
    facts.audit = _entries((Job.QUEUED, 0, 1), (Job.PAUSED, 0, 1), *resumed)
    assert _names(facts) == {"roads"}
    facts.wishes[0].resumes = 1
    assert _names(facts) == set()


def test_stale_output():
    """What another epoch made is not the result; a stale lease is not renewed."""
    facts = _well()
    facts.stored = replace(facts.stored, artifacts={"a": ("jobs/j", 1)})
    assert _names(facts) == {"I4"}
    facts = _well()
    facts.believed = {"j"}
    assert _names(facts) == {"I4"}


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(Stored(), id="nothing there"),
        pytest.param(Stored({"a": ("jobs/j", 2)}, {"artifacts/a": "UNAVAILABLE"}), id="cannot be read"),
        pytest.param(Stored({"a": ("jobs/j", 2)}, {"artifacts/a": "00" * 32}), id="other bytes"),
    ],
)
def test_results(stored: Stored):
    """SUCCEEDED means that the right bytes can be read now."""
    facts = _well()
    facts.stored = stored
    assert _names(facts) == {"I6"}


def test_other_film():
    """Whole and readable is not enough: it must be the film that was asked for."""
    facts = _well()
    facts.wishes[0].film = replace(_FILM, sha256="cd" * 32)
    assert _names(facts) == {"I6"}


def test_failed_without_need():
    """A film that is well does not fail because something was killed."""
    facts = _well()
    facts.rows = [replace(facts.rows[0], state=Job.FAILED, error_reason="INTERNAL_ERROR", artifacts=())]
    facts.stored = Stored()
    assert _names(facts) == {"P2"}
    facts.wishes[0].hopeless = True
    assert _names(facts) == set()


def test_site_limit():
    """No more of a site's jobs run at once than it allows."""
    facts = _well()
    other = [replace(entry, job="k") for entry in facts.audit[:2]]
    facts.audit = [*facts.audit[:2], *other]
    facts.wishes = [*facts.wishes, Wish("s", _FILM, names={"jobs/k"}, deleted=True)]
    facts.site_limit = 2
    assert _names(facts) == set()
    facts.site_limit = 1
    assert _names(facts) == {"I7"}


@pytest.mark.parametrize(
    "more",
    [
        {"artifacts": {"a": ("jobs/j", 2), "b": ("jobs/j", 1)}},
        {"strays": ["staging/x"]},
        {"work": ["j-1"]},
    ],
)
def test_leftovers(more: dict[str, object]):
    """Bytes that nobody means are found: artifacts of lost leases, files, work folders."""
    facts = _well()
    facts.stored = replace(facts.stored, **more)
    assert _names(facts) == {"I10"}
