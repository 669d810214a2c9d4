"""Fuzzing: mutated inputs for every parser in the tables of the tests beside this file."""

from __future__ import annotations

import importlib
import importlib.util
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

# Inputs of at most this many units, so that there are many.
_MAX_UNITS = 40
_MAX_MUTATIONS = 8
_MAX_LENGTH = 20_000
# Of wall time: a parser that takes longer for so small an input hangs.
_HANG_SECONDS = 5.0
# What parsers treat specially.
_CHARACTERS = "\0\n\r\t \"'\\%[]{}()<>:;,/@=*-+&²٣é\u202e\u0f73\u0316\ufeff\ud800\U0010ffff"
_WORDS = (
    "\r\n",
    "%00",
    "%ff",
    "::",
    "../",
    "//",
    "-->",
    "&amp;",
    "&#x110000;",
    "1e400",
    "nan",
    "inf",
    "NaN",
    "-1",
)
_TOKENS = (*_CHARACTERS, *_WORDS, "null", "AND", "NOT", "bytes=", "gzip", "chunked", "9" * 20, "9" * 5000)

T = TypeVar("T", str, bytes)


@dataclass(frozen=True)
class Target:
    """A parser, the maker of its inputs, and the exceptions by which it rejects an input."""

    name: str
    build: Callable[[int], Any]
    parse: Callable[[Any], object]
    rejections: tuple[type[Exception], ...]


@dataclass(frozen=True)
class Finding:
    """An input at which a parser failed, by the seed that makes it again."""

    target: str
    seed: str
    problem: str


@dataclass
class FuzzResult:
    """What was done and found."""

    parsers: int = 0
    inputs: int = 0
    findings: tuple[Finding, ...] = ()


def targets() -> list[Target]:
    """Return the parsers of all tables."""
    from reelhaul.rest import CallFailed
    from reelhaul_fetcher.guard.errors import Malformed, Refused
    from reelhaul_runtime.errors import ReelhaulError
    from reelhaul_transcoding.errors import TranscodingError

    rejections = (ReelhaulError, CallFailed, TranscodingError, ValueError)
    found = [
        Target(case.name, case.build, case.parse, rejections)
        for module in ("test_linear_parsers_services", "test_linear_parsers")
        for case in _table(module, "CASES", ())
    ]
    for name, (parse, build) in _table("test_guard_parsers", "PARSERS", {}).items():
        found.append(Target(f"guard: {name}", build, parse, (Malformed, Refused)))
    # A number is a size, not an input to change.
    return [target for target in found if not isinstance(target.build(1), int)]


def _table(module: str, name: str, default: Any) -> Any:
    if importlib.util.find_spec(f"tests.security.{module}") is None:
        return default
    return getattr(importlib.import_module(f"tests.security.{module}"), name)


def fuzz(seconds: float, seed: int, only: str = "") -> FuzzResult:
    """Feed mutated inputs to all parsers in turn for *seconds*, or to those whose name contains *only*."""
    selected = [target for target in targets() if only in target.name]
    result, findings = FuzzResult(parsers=len(selected)), dict[tuple[str, str], Finding]()
    end, iteration = time.monotonic() + seconds, 0
    while selected and time.monotonic() < end:
        for target in selected:
            finding = run_one(target, f"{seed}:{iteration}")
            result.inputs += 1
            if finding is not None:
                # The first of its kind is enough.
                findings.setdefault((finding.target, finding.problem), finding)
        iteration += 1
    result.findings = tuple(findings.values())
    return result


def run_one(target: Target, seed: str) -> Finding | None:
    """Parse the input that *seed* makes; return what goes wrong."""
    chance = random.Random(f"{target.name}:{seed}")
    value = mutate(target.build(chance.randint(1, _MAX_UNITS)), chance)
    try:
        with _time_limit():
            target.parse(value)
    except target.rejections:
        return None
    except _Hang:
        return Finding(target.name, seed, f"no result after {_HANG_SECONDS:.0f} s")
    except Exception as error:
        return Finding(target.name, seed, f"{type(error).__name__}: {str(error)[:100]}")
    return None


def mutate(value: Any, chance: random.Random) -> Any:
    """Return a changed copy of *value*; values other than text and collections of it stay as they are."""
    if isinstance(value, str | bytes):
        for _ in range(chance.randint(0, _MAX_MUTATIONS)):
            value = _mutate_text(value, chance)
        return value[:_MAX_LENGTH]
    if isinstance(value, dict):
        return {key: mutate(item, chance) for key, item in value.items()}
    if isinstance(value, list):
        return [mutate(item, chance) for item in value]
    if isinstance(value, tuple):
        return tuple(mutate(item, chance) for item in value)
    return value


def _mutate_text(text: T, chance: random.Random) -> T:
    start, stop = sorted(chance.choices(range(len(text) + 1), k=2))
    token = chance.choice(_TOKENS)
    piece: Any = token if isinstance(text, str) else token.encode("utf-8", "surrogatepass")
    match chance.randrange(6):
        case 0:
            return text[:start] + piece + text[start:]
        case 1:
            return text[:start] + piece * chance.randint(1, 50) + text[stop:]
        case 2:
            return text[:start] + text[stop:]
        case 3:
            return text[:stop] + text[start:stop] * chance.randint(1, 20) + text[stop:]
        case 4:
            return text[:stop]
    letter: Any = chr(chance.randrange(256)) if isinstance(text, str) else bytes([chance.randrange(256)])
    return text[:start] + letter + text[start + 1 :]


class _Hang(BaseException):
    """A parser did not end in time. Not an Exception, so that no parser takes it for its own."""


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise _Hang in the block after some seconds. For the main thread; regular expressions obey too."""

    def stop(*_: object) -> None:
        raise _Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
