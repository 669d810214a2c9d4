"""Checks: what one is, what it finds, and how all of them are run, each within a limit of time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reelhaul_runtime.redaction import redact_urls

Level = Literal["ok", "warning", "problem"]

_SECONDS = 30.0
_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: a fact, and what to do about it."""

    level: Level
    fact: str
    #: Empty if there is nothing to do.
    remedy: str = ""


def ok(fact: str, advice: str = "") -> Finding:
    """Return a finding that needs no action."""
    return Finding("ok", fact, advice)


def warning(fact: str, remedy: str) -> Finding:
    """Return a finding that will or may become a problem."""
    return Finding("warning", fact, remedy)


def problem(fact: str, remedy: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding("problem", fact, remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. It changes nothing, and its texts have no secrets."""

    #: ``group.subject``, e.g. ``jobs.database``.
    name: str
    #: Returns the findings, one or several. What it raises is a problem.
    run: Callable[[], Finding | Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Result:
    """A finding of the check *name*."""

    name: str
    finding: Finding


def run_checks(checks: Sequence[Check], seconds: float = _SECONDS) -> list[Result]:
    """Run *checks* at the same time; return their results in the order of the checks.

    A check that takes longer than *seconds* is a problem.
    """
    results: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()

    def run(number: int, check: Check) -> None:
        results.put((number, _findings(check)))

    for number, check in enumerate(checks):
        # A daemon: a check that hangs does not keep the process.
        threading.Thread(target=run, args=(number, check), daemon=True).start()
    late = problem(f"the check did not end in {seconds:.0f} s", "look at what it asks: it hangs")
    found = {number: [late] for number in range(len(checks))}
    deadline = time.monotonic() + seconds
    for _ in checks:
        try:
            number, findings = results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[number] = findings
    return [Result(checks[number].name, each) for number in sorted(found) for each in found[number]]


def _findings(check: Check) -> list[Finding]:
    """Return what *check* finds, without URLs' passwords and without line breaks."""
    try:
        found = check.run()
        findings = [found] if isinstance(found, Finding) else list(found)
    except Exception as error:
        text = str(error) or type(error).__name__
        findings = [problem(f"the check failed: {text}", "see the cause; report it if it is none of yours")]
    return [Finding(each.level, _clean(each.fact), _clean(each.remedy)) for each in findings]


def _clean(text: str) -> str:
    return " ".join(redact_urls(text).split())[:_MAX_TEXT]
