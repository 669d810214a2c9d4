"""Benchmark ``codec``: serialized messages to JSON text and back, against json_format, in CPU time.

Parts: out (job, event, list of 50), in (job, list of 50, a request that creates a job), cache (the list of 50
with none, 90 % or all of its jobs kept), strict (the checks of JSON text alone).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from bench.gateway.messages import CREATE_BODY, LIST_FORMS, NEW, JobResponses, event, serialize_job
from bench.report import Report, median_ratio
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import CreateJobRequest, ListJobsResponse, WatchJobResponse
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.fragments import FragmentCache
from reelhaul_transcoding.codec.strict_json import parse_json
from reelhaul_transcoding.errors import FieldError

_LIST_SIZE = 50
_CACHE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Comparison:
    """Calls functions in rounds, in turns; each round takes some *seconds* for each."""

    report: Report
    rounds: int
    seconds: float

    def compare(self, name: str, functions: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Report the µs of CPU that a call of each function takes: the best of three series per round."""
        calls = {key: self._calls_per_series(function) for key, function in functions.items()}
        results: dict[str, list[float]] = {key: [] for key in functions}
        for number in range(self.rounds):
            for key in list(functions)[:: 1 if number % 2 == 0 else -1]:
                series = [_measure(functions[key], calls[key]) for _ in range(3)]
                results[key].append(min(series) * 1e6)
        self.report.add_figures("us", {f"{name}: {key}": values for key, values in results.items()})
        return results

    def _calls_per_series(self, function: Callable[[], object]) -> int:
        return max(1, int(self.seconds / 3 / _measure(function, 3)))


def _measure(function: Callable[[], object], calls: int) -> float:
    start = time.thread_time()
    for _ in range(calls):
        function()
    return (time.thread_time() - start) / calls


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    comparison = Comparison(report, 3 if report.short else 9, 0.05 if report.short else 0.2)
    for name, part in {"out": _out, "in": _in, "cache": _cache, "strict": _strict}.items():
        if not only or name in only:
            report.print_title(name)
            part(comparison)


def _list() -> bytes:
    return JobResponses().list_jobs("polled", _LIST_SIZE)


def _out(comparison: Comparison) -> None:
    cases: dict[str, tuple[Any, bytes]] = {
        "job": (Job, serialize_job(NEW)),
        "event": (WatchJobResponse, event(1, 1_790_000_000_000_000).SerializeToString()),
        "list": (ListJobsResponse, _list()),
    }
    for name, (message_class, message) in cases.items():
        encode = Encoder().compile_serialized(message_class.DESCRIPTOR)

        def oracle(message_class: Any = message_class, message: bytes = message) -> bytes:
            return json_format.MessageToJson(message_class.FromString(message), indent=None).encode()

        results = comparison.compare(
            f"{name} out",
            {"json_format": oracle, "ours": lambda encode=encode, message=message: encode(message)},
        )
        ratio = median_ratio(results["json_format"], results["ours"])
        comparison.report.add_target(f"codec-{name}-out-over-json-format", ratio, ">=", 3)


def _in(comparison: Comparison) -> None:
    cases: dict[str, tuple[Any, bytes, float]] = {
        "job": (Job, _json(Job, serialize_job(NEW)), 4),
        "create": (CreateJobRequest, b'{"job":' + CREATE_BODY.encode() + b"}", 4),
        "list": (ListJobsResponse, _json(ListJobsResponse, _list()), 2.5),
    }
    for name, (message_class, text, bar) in cases.items():
        decode = Decoder().compile(message_class.DESCRIPTOR)

        def oracle(message_class: Any = message_class, text: bytes = text) -> bytes:
            return bytes(json_format.Parse(text, message_class()).SerializeToString())

        def ours(message_class: Any = message_class, text: bytes = text, decode: Any = decode) -> bytes:
            message = message_class()
            decode(message, parse_json(text), "")
            return bytes(message.SerializeToString())

        results = comparison.compare(f"{name} in", {"json_format": oracle, "ours": ours})
        ratio = median_ratio(results["json_format"], results["ours"])
        comparison.report.add_target(f"codec-{name}-in-over-json-format", ratio, ">=", bar)


def _cache(comparison: Comparison) -> None:
    responses = JobResponses()
    uncached = Encoder().compile_serialized(ListJobsResponse.DESCRIPTOR)
    cold, most, polled = (
        Encoder(fragments=FragmentCache(size)).compile_serialized(ListJobsResponse.DESCRIPTOR)
        for size in (_CACHE_BYTES, _CACHE_BYTES // 16, _CACHE_BYTES)
    )
    # More new jobs than the cache holds, so that none is found again; making them is not measured.
    lists = {
        form: [responses.list_jobs(form, _LIST_SIZE) for _ in range(1 if form == "polled" else 600)]
        for form in LIST_FORMS
    }
    functions = {
        "no cache": _each(uncached, lists["cold"]),
        "0 % hits": _each(cold, lists["cold"]),
        "90 % hits": _each(most, lists["most"]),
        "100 % hits": _each(polled, lists["polled"]),
    }
    results = comparison.compare("list of 50 out", functions)
    for hits, bar in {"0 %": 1.1, "100 %": 0.1}.items():
        ratio = median_ratio(results[f"{hits} hits"], results["no cache"])
        comparison.report.add_target(f"codec-list-at-{hits[:-2]}-hits-over-no-cache", ratio, "<=", bar)


def _each(encode: Callable[[bytes], bytes], messages: list[bytes]) -> Callable[[], object]:
    """Return the function that encodes one of *messages* after the other, over and over."""
    index = 0

    def encode_next() -> bytes:
        nonlocal index
        index = (index + 1) % len(messages)
        return encode(messages[index])

    return encode_next


def _strict(comparison: Comparison) -> None:
    text = _json(ListJobsResponse, _list())
    large = b"[" + b",".join([text] * 20) + b"]"
    brackets = b"[" * (4 * 1024 * 1024)

    def parse_brackets() -> None:
        with suppress(FieldError):
            parse_json(brackets)

    comparison.compare(
        "parse_json",
        {
            f"list of {len(text):,} bytes": lambda: parse_json(text),
            f"lists of {len(large):,} bytes": lambda: parse_json(large),
            "4 MiB of brackets": parse_brackets,
        },
    )


def _json(message_class: Any, message: bytes) -> bytes:
    return json_format.MessageToJson(message_class.FromString(message), indent=None).encode()
