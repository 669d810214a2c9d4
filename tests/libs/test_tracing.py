"""Traces: sampling, propagation, X-Ray's header, and the export to a real receiver."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from pydantic import ValidationError
from tests.metric_values import MetricChanges
from tests.otlp_receiver import format_tree, running_receiver

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime import errors, logs
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.tracing import spans, xray
from reelhaul_runtime.tracing.export import MAX_QUEUE, SpanExport
from reelhaul_runtime.tracing.process import tracing
from reelhaul_runtime.tracing.settings import TracingSettings
from reelhaul_runtime.tracing.spans import RecordedSpan

TOKEN = "the suite token"
JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED, UNSAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01", f"00-{TRACE}-00f067aa0ba902b7-00"


@pytest.fixture
def recorded() -> Iterator[list[RecordedSpan]]:
    """Tracing is on for the test: the spans that ended."""
    ended: list[RecordedSpan] = []
    spans.configure(ended.append)
    logs.traceparent.set("")
    yield ended
    spans.configure(None)
    logs.traceparent.set("")


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Forwards GetJob to *upstream* if there is one, and keeps the trace context of the call."""

    def __init__(self, upstream: Any = None) -> None:
        self.upstream = upstream
        self.traceparent = ""

    async def GetJob(self, request: Any, context: Any) -> job_pb2.Job:
        self.traceparent = logs.traceparent.get()
        if self.upstream is not None:
            with channels.status_as_errors("upstream"):
                response: job_pb2.Job = await self.upstream.GetJob(request)
                return response
        if request.name == "jobs/bug":
            raise RuntimeError("the password is hunter2")
        if request.name == "jobs/missing":
            raise errors.NotFound(request.name)
        return job_pb2.Job(name=request.name)


@asynccontextmanager
async def serving_jobs(jobs: Jobs) -> AsyncIterator[job_service_pb2_grpc.JobServiceStub]:
    servicers = [(job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, JOBS.full_name)]
    authenticator = NoAuthentication(TOKEN)
    async with (
        serving("127.0.0.1:0", servicers, authenticator=authenticator, drain_seconds=1) as port,
        channels.open_channel(f"127.0.0.1:{port}", [JOBS], suite_token=TOKEN) as channel,
    ):
        yield job_service_pb2_grpc.JobServiceStub(channel)


@asynccontextmanager
async def calling_jobs(jobs: Jobs) -> AsyncIterator[Any]:
    """Serve *jobs*; yields a stub of a caller that is no service."""
    servicers = [(job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, JOBS.full_name)]
    async with (
        serving("127.0.0.1:0", servicers, authenticator=NoAuthentication(TOKEN), drain_seconds=1) as port,
        channels.open_channel(f"127.0.0.1:{port}", [JOBS]) as channel,
    ):
        yield job_service_pb2_grpc.JobServiceStub(channel)


async def wait_for(recorded: list[RecordedSpan], count: int) -> list[RecordedSpan]:
    """Wait until *count* spans have ended; return them as they began."""
    # The span of a client ends with its call; its task may be last.
    async with asyncio.timeout(10):
        while len(recorded) < count:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
    return sorted(recorded, key=lambda span: span.start_ns)


def test_off_imports_nothing():
    """While tracing is off, no module of OpenTelemetry is imported by any service."""
    code = (
        "import sys; from reelhaul_runtime import serve, service;"
        "[service.load(name) for name in service.names()];"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


async def test_trace_of_two_services(recorded: list[RecordedSpan]):
    """A call through two services is one trace: server, client and server span, each below the one before."""
    inner = Jobs()
    async with serving_jobs(inner) as stub, calling_jobs(Jobs(stub)) as caller:
        await caller.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
        outer, client, server = await wait_for(recorded, 3)
    assert [(span.kind.name, span.name) for span in (outer, client, server)] == [
        ("SERVER", "reelhaul.jobs.v1.JobService/GetJob"),
        ("CLIENT", "reelhaul.jobs.v1.JobService/GetJob"),
        ("SERVER", "reelhaul.jobs.v1.JobService/GetJob"),
    ]
    assert (outer.parent_id, client.parent_id, server.parent_id) == ("", outer.span_id, client.span_id)
    assert {span.trace_id for span in recorded} == {outer.trace_id}
    assert inner.traceparent == server.traceparent
    assert server.attributes["rpc.grpc.status_code"] == 0


async def test_services_begin_no_trace(recorded: list[RecordedSpan]):
    """What a service does by itself is not traced, and neither are probes."""
    jobs = Jobs()
    async with serving_jobs(jobs) as stub:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert jobs.traceparent == ""
    assert recorded == []


@pytest.mark.parametrize(
    ("name", "code", "error"), [("jobs/bug", 13, "INTERNAL_ERROR"), ("jobs/missing", 5, "")]
)
async def test_failed_calls(recorded: list[RecordedSpan], name: str, code: int, error: str):
    """A failure of the server has its reason and no text; a mistake of the caller is none of the server."""
    async with calling_jobs(Jobs()) as caller:
        with pytest.raises(Exception, match=r"internal error|jobs/missing"):
            await caller.GetJob(job_service_pb2.GetJobRequest(name=name))
        (server,) = await wait_for(recorded, 1)
    assert (server.attributes["rpc.grpc.status_code"], server.error) == (code, error)
    assert "hunter2" not in repr((server.attributes, server.error, server.name))


async def test_unsampled_trace_goes_on(recorded: list[RecordedSpan]):
    """A trace that its caller does not record is passed on as it is, and not recorded."""
    inner = Jobs()
    async with serving_jobs(inner) as stub, calling_jobs(Jobs(stub)) as caller:
        metadata = [("traceparent", UNSAMPLED)]
        await caller.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), metadata=metadata)
    assert inner.traceparent == UNSAMPLED
    assert recorded == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff{SAMPLED[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        SAMPLED.upper(),
        SAMPLED + "0" * 900,
    ],
)
async def test_invalid_traceparent(recorded: list[RecordedSpan], header: str):
    """A call with an invalid trace context begins a trace of its own."""
    jobs = Jobs()
    async with calling_jobs(jobs) as caller:
        metadata = [("traceparent", header)]
        await caller.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), metadata=metadata)
        (server,) = await wait_for(recorded, 1)
    assert (server.parent_id, jobs.traceparent) == ("", server.traceparent)
    assert server.trace_id != TRACE


async def test_callers_record_few_traces(monkeypatch: pytest.MonkeyPatch, recorded: list[RecordedSpan]):
    """Callers have 20 traces a second recorded beyond the ratio; further ones keep their id only."""
    spans.configure(recorded.append, 0.0)
    monkeypatch.setattr(spans, "_clock", lambda: 1e9)
    jobs = Jobs()
    async with calling_jobs(jobs) as caller:
        for _ in range(25):
            metadata = [("traceparent", SAMPLED)]
            await caller.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), metadata=metadata)
        assert len(await wait_for(recorded, 20)) == 20
    assert jobs.traceparent == UNSAMPLED
    assert spans.start_request("HTTP", trace_id=TRACE, sampled=True) is spans.NOT_RECORDED
    monkeypatch.setattr(spans, "_clock", lambda: 1e9 + 1)
    assert spans.limit_caller(SAMPLED) == SAMPLED


async def test_services_are_not_limited(monkeypatch: pytest.MonkeyPatch, recorded: list[RecordedSpan]):
    """What a service passes on was limited where it entered the suite, and what the ratio samples is not."""
    spans.configure(recorded.append, 0.0)
    monkeypatch.setattr(spans, "_clock", lambda: 2e9)
    async with serving_jobs(Jobs()) as stub:
        for _ in range(25):
            with spans.continuing(SAMPLED):
                await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
        await wait_for(recorded, 50)
    spans.configure(recorded.append, 1.0)
    assert all(spans.limit_caller(SAMPLED) == SAMPLED for _ in range(25))


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5, 1.0])
def test_ratio(ratio: float):
    """New traces are sampled exactly as OpenTelemetry's TraceIdRatioBased does it."""
    sampler = TraceIdRatioBased(ratio)
    spans.configure(lambda _: None, ratio)
    try:
        for _ in range(2000):
            trace_id = random.getrandbits(128)
            expected = sampler.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
            assert spans.decide(f"{trace_id:032x}") is expected
    finally:
        spans.configure(None)


async def test_answers_that_cannot_be_read(caplog: pytest.LogCaptureFixture):
    """A collector whose answer is garbage costs its spans, which are counted, and nothing else."""

    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("google.rpc.retryinfo-bin", b"\xff\xff")])
        context.abort(grpc.StatusCode.UNAVAILABLE, "no\nforged")
        return b""

    changes = MetricChanges()
    caplog.set_level(logging.INFO)
    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        settings = TracingSettings(otlp_endpoint=f"http://127.0.0.1:{port}", trace_sample_ratio=1)
        async with tracing(settings, "jobs") as start:
            start()
            with spans.trace("lost"):
                pass
    finally:
        server.stop(None).wait()
    assert changes.of("reelhaul_spans_dropped_total") == {(): 1}
    assert "spans cannot be exported and are dropped" in [record.message for record in caplog.records]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1",
            xray.TraceHeader(TRACE, "00f067aa0ba902b7", True),
        ),
        ("Root=1-4bf92f35-77b34da6a3ce929d0e0e4736", xray.TraceHeader(TRACE)),
        ("Self=1-a-b; Root=1-4bf92f35-77b34da6a3ce929d0e0e4736; Sampled=?", xray.TraceHeader(TRACE)),
        ("Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Sampled=0", xray.TraceHeader(TRACE, "", False)),
        ("Root=1-00000000-000000000000000000000000", None),
        ("Root=2-4bf92f35-77b34da6a3ce929d0e0e4736", None),
        ("Parent=00f067aa0ba902b7", None),
        (";" * 100_000, None),
    ],
)
def test_xray(header: str, expected: xray.TraceHeader | None):
    """X-Ray's header is read as AWS writes it, with or without parent and decision."""
    assert xray.parse(header) == expected


def test_xray_header():
    """A trace context is written as X-Ray's header."""
    header = xray.parse(xray.to_header(SAMPLED))
    assert header == xray.TraceHeader(TRACE, "00f067aa0ba902b7", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("otlp_endpoint", "collector:4317"),
        ("otlp_endpoint", "http://collector"),
        ("otlp_endpoint", "http://collector:4317/v1/traces"),
        ("otlp_endpoint", "http://user:hunter2@collector:4317"),
        ("otlp_headers", "hunter2"),
        ("otlp_headers", "Upper=hunter2"),
        ("otlp_headers", "a=hunter2\nb"),
    ],
)
def test_wrong_settings(name: str, value: str):
    """A wrong setting of traces is refused, and its message has no secret."""
    with pytest.raises(ValidationError) as failure:
        TracingSettings(**{name: value})
    message = failure.value.errors(include_input=False, include_context=False)[0]["msg"]
    assert "hunter2" not in message


async def test_export():
    """Spans arrive as they were recorded, with their resource, and the headers of the settings."""
    with running_receiver() as receiver:
        settings = TracingSettings(
            otlp_endpoint=receiver.endpoint, otlp_headers="x-key=a=b", trace_sample_ratio=1
        )
        async with tracing(settings, "jobs") as start:
            start()
            with spans.trace("outer") as outer:
                outer.set({"text": "a", "number": 1, "share": 0.5, "flag": True, "names": ["a", "b"]})
                with pytest.raises(ValueError, match="x"), spans.start("inner", links=[SAMPLED]):
                    raise ValueError("x")
    assert format_tree(receiver.spans) == ["jobs INTERNAL outer", "  jobs INTERNAL inner"]
    inner, first = receiver.spans
    assert (first.attributes["number"], first.attributes["share"], first.error) == (1, 0.5, "")
    assert (inner.error, inner.attributes["error.type"]) == ("ValueError", "ValueError")
    assert inner.links == ["00f067aa0ba902b7"]
    assert first.start <= inner.start <= inner.end <= first.end
    assert receiver.resources[0]["service.namespace"] == "reelhaul"
    assert receiver.metadata[0]["x-key"] == "a=b"


async def test_collector_is_away(caplog: pytest.LogCaptureFixture):
    """A collector that never answers delays no span, and the end of the process by seconds only."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = TracingSettings(
            otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", trace_sample_ratio=1
        )
        with caplog.at_level(logging.INFO):
            async with tracing(settings, "jobs") as start:
                start()
                began = time.monotonic()
                for _ in range(MAX_QUEUE + 1000):
                    with spans.trace("span"):
                        pass
                recording = time.monotonic() - began
                began = time.monotonic()
            closing = time.monotonic() - began
    assert recording < 2
    assert closing < 5
    (dropped,) = [record for record in caplog.records if record.message == "spans were dropped"]
    assert vars(dropped)["spans"] == MAX_QUEUE + 1000


class Records(logging.Handler):
    """Keeps what the root logger gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_outage_is_logged_once(caplog: pytest.LogCaptureFixture):
    """While no collector listens, one line says why spans are dropped; the library has none of its own."""
    log, root = Records(), logging.getLogger()
    caplog.set_level(logging.INFO)
    root.addHandler(log)
    try:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
            export = SpanExport(TracingSettings(otlp_endpoint=endpoint), "jobs")
            spans.configure(export.add)
            for _ in range(MAX_QUEUE):
                with spans.trace("span"):
                    pass
            # It ends the pauses between the tries.
            export.close(0.1)
    finally:
        spans.configure(None)
        root.removeHandler(log)
    (outage,) = [record for record in log.records if record.getMessage().startswith("spans cannot")]
    assert vars(outage)["endpoint"] == endpoint
    assert {record.name.partition(".")[0] for record in log.records} == {"reelhaul_runtime"}
