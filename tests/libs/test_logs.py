"""Logs: one JSON object per line for programs, or text for people."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import pytest
from grpc import aio

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime import logs
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import serving

JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name
JOB = "jobs/01a229d4-ae23-7c2d-bb11-8768a370183d"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """A stream for the logs; the logging of the tests is restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for variable in vars(logs).values():
        if isinstance(variable, ContextVar):
            variable.set("")


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_each_record_is_one_json_line(out: io.StringIO):
    """A record is one line, whatever its newlines, with time, level, service and extras."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("reelhaul_jobs").info("two\nlines %d", 7, extra={"job": "jobs/1", "folder": io})
    (line,) = lines(out)
    assert line["message"] == "two\nlines 7"
    assert (line["level"], line["service"], line["job"]) == ("INFO", "jobs", "jobs/1")
    assert line["time"].endswith("+00:00")


def test_records_have_their_request(out: io.StringIO):
    """Within a request each record has the request id and the trace id; outside neither."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("x").info("outside")
    logs.begin_request("req-1", TRACE)
    logging.getLogger("x").info("inside")
    outside, inside = lines(out)
    assert "request_id" not in outside
    assert inside["request_id"] == "req-1"
    assert inside["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert inside["span_id"] == "00f067aa0ba902b7"


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", 'a"b', "ü", "a\n"])
def test_invalid_request_ids_are_replaced(out: io.StringIO, sent: str):
    """An id that is empty, too long or has characters that are not allowed is replaced."""
    logs.begin_request(sent, "no trace")
    assert len(logs.request_id.get()) == 16
    assert logs.traceparent.get() == ""


def test_exceptions_are_part_of_the_line(out: io.StringIO):
    """An exception is a field of the record, with its type and stack, not lines of its own."""
    logs.configure("jobs", "json", "INFO", stream=out)
    try:
        int("bang")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    (line,) = lines(out)
    assert line["exception"]["type"] == "ValueError"
    assert "ValueError: invalid literal" in line["exception"]["stack"]


def test_lines_are_bounded(out: io.StringIO):
    """A line stays below the limits of CloudWatch and Loki (256 KiB), whatever is in its fields."""
    logs.configure("jobs", "json", "INFO", stream=out)
    log, nested = logging.getLogger("x"), ["deep"]
    for _ in range(100):
        nested = [nested]  # type: ignore[list-item]
    log.info("m" * 10**6, extra={"list": ["y" * 10**6] * 3, "nested": nested, "dict": {"a": "z" * 10**6}})
    log.info("many", extra={f"field{number}": "x" * 8000 for number in range(100)})
    log.error("it failed", exc_info=ValueError("v" * 10**6 + " the end"))
    one, many, failed = lines(out)
    assert len(one["message"]) == len(one["list"][0]) == len(one["dict"]["a"]) == 8193
    assert (many["message"], many["omitted"][0]) == ("many", "field0")
    assert failed["exception"]["stack"].endswith("the end")
    assert max(map(len, out.getvalue().splitlines())) < 200 << 10


def test_extras_replace_no_fixed_field(out: io.StringIO):
    """The fields that every line has mean the same in every line; an extra of that name gets another."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("x").info("started", extra={"pid": 1, "service": "other"})
    (line,) = lines(out)
    assert (line["service"], line["service_"], line["pid_"]) == ("jobs", "other", 1)


def test_text(out: io.StringIO):
    """As text a line names the service and the extras."""
    logs.configure("jobs", "text", "INFO", stream=out)
    logging.getLogger("x").warning("careful", extra={"job": "jobs/1"})
    assert out.getvalue().split()[2:] == ["jobs", "WARNING", "careful", "job=jobs/1"]


def test_text_is_one_line_that_changes_no_terminal(out: io.StringIO):
    """Control characters of sites and callers are escaped, in messages, fields and exceptions."""
    logs.configure("jobs", "text", "INFO", stream=out)
    hostile = "a\nforged\x1b[2J\x9b31m\u202eb\u2028c"
    escaped = r"a\x0aforged\x1b[2J\x9b31m\u202eb\u2028c"
    logging.getLogger("x").warning("title %s", hostile, extra={"path": hostile})
    assert out.getvalue().count("\n") == 1
    assert f"title {escaped} path={escaped}" in out.getvalue()
    logging.getLogger("x").error("failed", exc_info=ValueError(hostile))
    rows = out.getvalue().split("\n")[2:-1]
    assert r"  forged\x1b[2J\x9b31m\u202eb" in rows
    assert all(row.startswith("  ") for row in rows)


def test_json_of_any_field(out: io.StringIO):
    """A line is JSON and not lost, whatever is in a field; numbers that JSON lacks are null."""
    logs.configure("jobs", "json", "INFO", stream=out)
    extra = {
        "file": "\udc80",
        "ratio": float("nan"),
        "sizes": [float("inf"), 1 << 70],
        "request": {("a",): 1},
    }
    logging.getLogger("x").info("odd", extra=extra)
    (line,) = (json.loads(row, parse_constant=pytest.fail) for row in out.getvalue().splitlines())
    assert (line["ratio"], line["sizes"], line["request"]) == (None, [None, 1 << 70], {"('a',)": 1})


def test_line_is_bounded_in_bytes(out: io.StringIO):
    """A line has at most 200 KiB in UTF-8, of which a character may take four bytes."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("x").info("long", extra={f"field{number}": ["界" * 500] * 50 for number in range(4)})
    assert len(out.getvalue().encode()) <= 200 << 10
    (line,) = lines(out)
    assert line["omitted"] == ["field0", "field1", "field2", "field3"]


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Logs each call."""

    async def GetJob(self, request: Any, context: Any) -> job_pb2.Job:
        logging.getLogger("x").info("known")
        logging.getLogger("x").info("about another job", extra={"job": "jobs/2"})
        return job_pb2.Job(name=request.name)

    async def ListJobs(self, request: Any, context: Any) -> job_service_pb2.ListJobsResponse:
        logging.getLogger("x").info("the next request")
        return job_service_pb2.ListJobsResponse()


async def serve_two_requests() -> None:
    """Serve a request about a job that came through a gateway, and one of this machine about none."""
    servicers = [(job_service_pb2_grpc.add_JobServiceServicer_to_server, Jobs(), JOBS)]
    async with (
        serving("127.0.0.1:0", servicers, authenticator=NoAuthentication("a token"), drain_seconds=1) as port,
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub: Any = job_service_pb2_grpc.JobServiceStub(channel)
        metadata = [("x-request-id", "req-1"), ("x-forwarded-for", "192.0.2.7")]
        await stub.GetJob(job_service_pb2.GetJobRequest(name=JOB), metadata=metadata)
        await stub.ListJobs(job_service_pb2.ListJobsRequest(), metadata=[("x-request-id", "req-2")])


async def test_records_tell_whom_a_request_serves(out: io.StringIO):
    """Each record of a call has its job, tenant and client, and none of another call."""
    logs.configure("jobs", "json", "INFO", stream=out)
    await serve_two_requests()
    known, another, following = [
        {name: line.get(name) for name in ("request_id", "client", "tenant", "job")}
        for line in lines(out)
        if line["logger"] == "x"
    ]
    assert known == {"request_id": "req-1", "client": "192.0.2.7", "tenant": "local", "job": JOB}
    assert another == known | {"job": "jobs/2"}
    assert following == {"request_id": "req-2", "client": "127.0.0.1", "tenant": "local", "job": None}


async def test_text_tells_whom_a_request_serves(out: io.StringIO):
    """As text the fields of the request follow the message."""
    logs.configure("jobs", "text", "INFO", stream=out)
    await serve_two_requests()
    line = next(line for line in out.getvalue().splitlines() if "the next request" in line)
    assert line.endswith("the next request request_id=req-2 tenant=local client=127.0.0.1")


class SignallingStream(io.StringIO):
    """A stream that signals when it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


@pytest.mark.parametrize("style", ["json", "text"])
def test_full_disk_fails_nothing_that_is_logged(out: io.StringIO, style: Literal["json", "text"]):
    """Neither a record nor a line of the access log raises if it cannot be written."""
    with open("/dev/full", "w") as full:
        logs.configure("gateway", style, "INFO", stream=full)
        access = logs.AccessLog("reelhaul_gateway")
        for _ in range(3):
            logging.getLogger("reelhaul_gateway").info("a record")
            access.log(logging.INFO, "request", {"path": "x" * 100_000})
        logging.getLogger().handlers.clear()
        with pytest.raises(OSError, match="No space"):
            full.close()


async def test_access_log_is_written_in_batches(out: io.StringIO):
    """Lines of an access log wait at most 50 ms for others; any other is written at once, behind them."""
    stream = SignallingStream()
    logs.configure("gateway", "json", "INFO", stream=stream)
    access = logs.AccessLog("reelhaul_gateway")
    access.log(logging.INFO, "first", {})
    assert not stream.written.is_set()
    async with asyncio.timeout(10):
        await stream.written.wait()
    access.log(logging.INFO, "second", {})
    access.log(logging.INFO, "third", {})
    logging.getLogger("reelhaul_gateway").info("fourth")
    assert [line["message"] for line in lines(stream)] == ["first", "second", "third", "fourth"]


def test_no_line_of_the_access_log_is_lost(out: io.StringIO):
    """Lines are written without an event loop too, when many wait, and at the end of the process."""
    logs.configure("gateway", "json", "INFO", stream=out)
    access = logs.AccessLog("reelhaul_gateway")
    access.log(logging.INFO, "no event loop", {})
    assert len(lines(out)) == 1

    async def log_many() -> None:
        for number in range(1000):
            access.log(logging.INFO, "request", {"number": number})
        assert 0 < len(lines(out)) < 1001

    asyncio.run(log_many())
    logging.shutdown([weakref.ref(handler) for handler in logging.getLogger().handlers])
    assert [line.get("number") for line in lines(out)] == [None, *range(1000)]


@pytest.mark.parametrize("style", ["json", "text"])
def test_line_of_the_access_log_is_as_any_other(out: io.StringIO, style: Literal["json", "text"]):
    """It has the fields of its request, without secrets, and only if its level is logged."""
    logs.configure("gateway", style, "INFO", stream=out)
    logs.begin_request("req-1", TRACE, "192.0.2.7")
    fields = {"path": "/v1/jobs/https://media.example/v?signature=secret", "status": 200}
    access = logs.AccessLog("reelhaul_gateway")
    access.log(logging.DEBUG, "probe", {})
    access.log(logging.INFO, "request", dict(fields))
    access_line = out.getvalue()
    logging.getLogger("reelhaul_gateway.access").info("request", extra=fields)
    other_line = out.getvalue().removeprefix(access_line)
    if style == "json":
        assert json.loads(access_line).keys() == json.loads(other_line).keys()
        assert list(json.loads(access_line).values())[1:] == list(json.loads(other_line).values())[1:]
    for text in ("req-1", "192.0.2.7", "/v1/jobs/https://media.example/v"):
        assert text in access_line
    assert "secret" not in access_line
    assert "probe" not in access_line


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (
            "/v1/jobs/https://user:password@media.example/v?signature=secret",
            "/v1/jobs/https://media.example/v",
        ),
        ("/v1/artifacts/a?signature=secret", "/v1/artifacts/a"),
        ("/v1/artifacts/a:download", "/v1/artifacts/a:download"),
        ({"url": "https://media.example/?token=secret"}, {"url": "https://media.example/"}),
        ("\udcff.mp4", "\udcff.mp4"),
        (1 << 64, 1 << 64),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_values_are_written_without_secrets(out: io.StringIO, value: object, written: object):
    """URLs lose user info, query and fragment, wherever they are; what orjson cannot write is written too."""
    logs.configure("gateway", "json", "INFO", stream=out)
    logging.getLogger("reelhaul_gateway").info("request", extra={"value": value})
    assert lines(out)[0]["value"] == written


async def test_outage_is_logged_once(out: io.StringIO):
    """A check that fails again and again is logged once: at INFO at a start, as a warning later."""
    logs.configure("jobs", "json", "INFO", stream=out)
    attempts: asyncio.Queue[None] = asyncio.Queue()
    is_down = True

    async def check() -> None:
        attempts.put_nowait(None)
        if is_down:
            raise ConnectionError("gone")

    async with serving(
        "127.0.0.1:0", [], authenticator=NoAuthentication("a token"), checks={"jobs.database": check}
    ):
        for is_down in (True, False, True):
            for _ in range(6 if is_down else 1):
                await attempts.get()
    logged = [(line["level"], line["message"]) for line in lines(out) if "component" in line]
    assert logged == [("INFO", "check failed"), ("INFO", "check passes"), ("WARNING", "check failed")]


def test_outage_is_logged_at_growing_intervals():
    """An outage is logged when it begins, after 10 s, and then at intervals that double up to ten minutes."""
    now = 0.0
    outage = logs.Outage(lambda: now)
    outage.end()
    logged = []
    while now < 3600:
        if (level := outage.level()) is not None:
            assert level == logging.WARNING
            logged.append(now)
        now += 1.0
    assert logged == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]
    outage.end()
    assert outage.level() == logging.WARNING


def test_what_comes_up_later_is_no_warning():
    """What is missing at a start is logged at INFO, and a warning only if it stays away."""
    now = 100.0
    outage = logs.Outage(lambda: now)
    assert outage.level() == logging.INFO
    assert outage.level() is None
    now = 110.5
    assert outage.level() == logging.WARNING


def test_level(out: io.StringIO):
    """Nothing below the level is written; libraries that log every request have a higher level."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("x").debug("no")
    logging.getLogger("httpx").info("GET /")
    assert out.getvalue() == ""


def test_no_signatures(out: io.StringIO):
    """At DEBUG, what boto3 logs of requests, signatures included, is left out."""
    logs.configure("storage", "json", "DEBUG", stream=out)
    logging.getLogger("reelhaul_storage").debug("ours")
    logging.getLogger("botocore.auth").debug("Signature: secret")
    assert [line["message"] for line in lines(out)] == ["ours"]
