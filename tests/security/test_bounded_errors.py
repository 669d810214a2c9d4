"""Errors and caches of bounded size, whatever a caller, a site or another service sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc import aio
from tests.fetcher.fakes import FakeEngine, FakeGuard, FakeLeases
from tests.fetcher.worker_harness import WorkerHarness
from yt_dlp.networking.exceptions import TransportError

from reelhaul.backoff import Backoff
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import lease_service_pb2
from reelhaul_fetcher.clients.jobs import BatchingLeaseClient
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.model.site_limits import MAX_PRODUCTS
from reelhaul_fetcher.service import lease_keeper
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_fetcher.ytdlp.downloader import ResponseLog
from reelhaul_fetcher.ytdlp.errors import classify
from reelhaul_fetcher.ytdlp.fetch import limit_products
from reelhaul_jobs.api.leases import messages
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, Unavailable, UndecodableResponse, to_status
from reelhaul_runtime.validation.fields import check_enums
from reelhaul_runtime.validation.violations import FieldViolations

# --- violations


def violations_of(spec: FormatSpec) -> ReelhaulError | None:
    violations = FieldViolations()
    check_enums(spec, "format", violations)
    try:
        violations.raise_if_any()
    except ReelhaulError as error:
        return error
    return None


@pytest.mark.parametrize("count", [1, 3, 1000, 1_000_000])
def test_unknown_numbers_of_a_repeated_enum(count: int) -> None:
    """A million values that are none of the enum are one violation, as one is."""
    error = violations_of(FormatSpec(subtitles=packed_formats(b"\x63" * count)))
    assert error is not None
    assert [each.field for each in error.violations] == ["format.subtitles.formats"]
    assert error.violations[0].description.startswith("99 is not a ")
    assert violations_of(FormatSpec(subtitles=packed_formats(b"\x01" * count))) is None


def packed_formats(numbers: bytes) -> FormatSpec.Subtitles:
    """Return subtitles whose formats are *numbers*, each of one byte."""
    field = FormatSpec.Subtitles.DESCRIPTOR.fields_by_name["formats"].number
    length, varint = len(numbers), b""
    while length >= 0x80:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return FormatSpec.Subtitles.FromString(bytes([field << 3 | 2]) + varint + bytes([length]) + numbers)


def test_violations_are_bounded() -> None:
    """A request with very many wrong fields lists a hundred of them; few are all listed."""
    many, few = FieldViolations(), FieldViolations()
    for number in range(100_000):
        many.add(f"jobs[{number}].url", "is empty")
    for number in range(50):
        few.add(f"jobs[{number}].url", "is empty")
    with pytest.raises(ReelhaulError) as failure:
        many.raise_if_any()
    assert len(failure.value.violations) == 100
    assert failure.value.text.endswith("and 99997 more")
    assert to_status(failure.value).ByteSize() < 8192
    with pytest.raises(ReelhaulError) as failure:
        few.raise_if_any()
    assert len(failure.value.violations) == 50
    assert failure.value.text.endswith("and 47 more")


# --- a URL of a site that is none, in the handler of an exception


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://[", ""),
        ("http://[::1", ""),
        ("http://[x]/", ""),
        ("http://a\u2100b.test/", ""),
        ("https://[v1.x]/", "v1.x"),
        ("not a URL", ""),
        ("", ""),
        ("https://user:secret@Video.Example:443/a", "video.example"),
        ("https://[2001:db8::1]/a", "2001:db8::1"),
    ],
)
def test_failure_of_a_malformed_url(url: str, host: str) -> None:
    """A redirect to an invalid URL fails the download like other failures, with the host if there is one."""
    log = ResponseLog()
    error = TransportError("cannot connect")
    log.record(url, error)
    assert log.last_host == host
    failure = classify(error, ResponseLog(), url)
    assert failure.metadata["host"] == host
    assert "secret" not in str(to_status(failure))


# --- responses that cannot be read


@asynccontextmanager
async def jobs_that_answers(response: bytes) -> AsyncIterator[aio.Channel]:
    """A server that answers every call of LeaseService with *response*."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return response

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = aio.server()
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


@pytest.mark.parametrize("response", [b"\xff", b"\x0a\xff", b"\x0a\x02x", b"<html>", b"\x00" * 100])
async def test_undecodable_response(response: bytes) -> None:
    """Renew and Finish are not repeated after an undecodable response."""
    async with jobs_that_answers(response) as channel, asyncio.timeout(20):
        leases = BatchingLeaseClient(channel)
        with pytest.raises(UndecodableResponse):
            await leases.renew(lease_service_pb2.RenewRequest(job="jobs/1"))
        assert (
            await lease_keeper.finish_lease(leases, lease_service_pb2.FinishRequest(job="jobs/1"), "w")
            is None
        )


async def test_decodable_response() -> None:
    """An ordinary response, also one with fields of a newer version, is taken."""
    response = lease_service_pb2.FinishResponse()
    response.receipt.cancelled = True
    async with jobs_that_answers(response.SerializeToString() + b"\xf8\x7f\x01") as channel:
        answer = await lease_keeper.finish_lease(
            BatchingLeaseClient(channel), lease_service_pb2.FinishRequest(job="jobs/1"), "w"
        )
    assert answer is not None
    assert answer.receipt.cancelled


async def test_undecodable_renewal_ends_the_attempt(tmp_path: Path) -> None:
    """The attempt whose renewals cannot be read ends, and its slot serves the next job."""
    harness = WorkerHarness(tmp_path, lease_seconds=0.06)
    renewals = 0

    async def renew(request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        nonlocal renewals
        renewals += 1
        raise UndecodableResponse("jobs")

    harness.leases.renew = renew  # type: ignore[method-assign]
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert renewals == 1
    assert harness.outcome.HasField("failed")


@pytest.mark.parametrize("failures", [1, 4, 1000])
async def test_internal_errors_of_an_outcome(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome is dropped after five INTERNAL_ERROR responses in sequence, not after four."""
    monkeypatch.setattr(lease_keeper, "Backoff", lambda: Backoff(0.001, 0.002))
    answers = 0

    class Leases(FakeLeases):
        async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
            nonlocal answers
            answers += 1
            if answers <= failures:
                raise ReelhaulError(ErrorReason.INTERNAL_ERROR, "a bug")
            return lease_service_pb2.FinishResponse()

    request = lease_service_pb2.FinishRequest(job="jobs/1")
    response = await lease_keeper.finish_lease(Leases([], 30), request, "w")
    assert (response is None) is (failures == 1000)
    assert answers == (10 if failures == 1000 else failures + 1)


async def test_outage_keeps_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """While jobs does not answer, an outcome is kept, however long that lasts."""
    monkeypatch.setattr(lease_keeper, "Backoff", lambda: Backoff(0.001, 0.002))
    failures = [Unavailable("jobs", "jobs does not answer") for _ in range(50)]

    class Leases(FakeLeases):
        async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
            if failures:
                raise failures.pop()
            return lease_service_pb2.FinishResponse()

    request = lease_service_pb2.FinishRequest(job="jobs/1")
    assert await lease_keeper.finish_lease(Leases([], 30), request, "w") is not None


# --- the probe cache


async def test_probe_cache_is_bounded_in_bytes() -> None:
    """Answers of a megabyte are kept within 32 MiB, the newest of them; small ones are all kept."""
    engine = FakeEngine()
    cache = ProbeCache(engine, SiteAccess(FakeGuard()), lambda: datetime.now(UTC))

    async def probe(number: int) -> None:
        await cache.probe(ProbeQuery(f"https://videos.example/{number}"))

    engine.media = MediaInfo(title="A video")
    for number in range(20):
        await probe(number)
    for number in range(20):
        await probe(number)
    assert engine.probes == 20
    engine.media = MediaInfo(title="x" * (1 << 20))
    for number in range(100, 160):
        await probe(number)
    assert engine.probes == 80
    await probe(159)
    await probe(140)
    assert engine.probes == 80, "the newest are kept"
    await probe(100)
    assert engine.probes == 81, "the oldest are dropped"


# --- files of one job


def succeeded(count: int) -> lease_service_pb2.FinishRequest:
    request = lease_service_pb2.FinishRequest(job="jobs/018f0000-0000-7000-8000-000000000001", epoch=1)
    for number in range(count):
        request.succeeded.artifacts.add(name=f"artifacts/{number}", kind=ArtifactInfo.SUBTITLE)
    return request


def test_jobs_accepts_as_many_files_as_the_fetcher_delivers() -> None:
    """The fetcher delivers no more files than jobs accepts of one job."""
    messages.outcome_from_request(succeeded(MAX_PRODUCTS))
    with pytest.raises(FieldInvalid):
        messages.outcome_from_request(succeeded(MAX_PRODUCTS + 1))


def test_files_beyond_the_limit_are_left_out(tmp_path: Path) -> None:
    """Of more files than a job may have the first are delivered, with a warning; the others are deleted."""
    products = []
    for number in range(MAX_PRODUCTS + 20):
        path = tmp_path / f"subtitle{number}.srt"
        path.write_text("1")
        products.append(Product(path, ArtifactInfo(kind=ArtifactInfo.SUBTITLE)))
    kept, (warning,) = limit_products(products)
    assert kept == products[:MAX_PRODUCTS]
    assert warning.reason == MediaWarning.SUBTITLES_MISSING
    assert "the last 20 are left out" in warning.message
    assert len(list(tmp_path.iterdir())) == MAX_PRODUCTS
    assert limit_products(kept) == (kept, [])
