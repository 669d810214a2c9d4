"""Header values of sites are converted to a value or to none: no child dies of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fetcher.conftest import FetchListener, Harness
from tests.fetcher.conftest import engine_environment as engine_environment
from tests.fetcher.conftest import harness as harness
from tests.fetcher.guard_harness import PUBLIC, running_site
from yt_dlp.utils import ExtractorError, GeoRestrictedError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.http_values import (
    ContentRange,
    parse_content_range,
    parse_date,
    parse_decimal,
    parse_retry_after,
    parse_validator,
)
from reelhaul_fetcher.ytdlp.downloader import ResponseLog
from reelhaul_fetcher.ytdlp.errors import classify
from reelhaul_runtime.errors import ReelhaulError, to_status

NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)

#: Values that some conversion of Python raises for, or accepts though they are no number or date.
HOSTILE = [
    "",
    " ",
    "²",
    "١٢",
    "９",
    "9" * 5000,
    "-" + "9" * 5000,
    "-5",
    "+5",
    "1_000",
    "1e400",
    "nan",
    "inf",
    "0x10",
    "5.5",
    "5 5",
    "\x00",
    "\ud800",
    "é",
    "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
    "Wed, 21 Oct 2026 07:28:00 +99999999",
    "Wed, 21 Oct 2026 99:99:99 GMT",
    "Wed, 99 Oct 2026 07:28:00 GMT",
    "Wed, 21 Oct 2026 07:28:00 -0000",
    "Wed, 21 Oct 2026 07:28:00 " + "G" * 5000,
    "Wed, 21 Oct " + "9" * 5000 + " 07:28:00 GMT",
    "Wed," * 20_000,
    "bytes 0-²/5",
    "bytes 0-" + "9" * 5000 + "/*",
    "bytes 5-1/3",
    "bytes */*",
    "items 0-1/2",
]
PARSERS: dict[str, Callable[[object], object]] = {
    "decimal": parse_decimal,
    "date": parse_date,
    "Retry-After": lambda value: parse_retry_after(value, NOW),
    "Content-Range": parse_content_range,
    "validator": parse_validator,
}


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:40])
@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_hostile_value(parse: Callable[[object], object], value: str) -> None:
    """A hostile value is a value or none."""
    parse(value)


@given(st.one_of(st.text(), st.from_regex(r"\w{3}, \d{1,6} \w{3} \d{1,30} \d+:\d+:\d+ [+-]?\w+"), st.none()))
def test_any_value(value: str | None) -> None:
    """No text raises."""
    for parse in PARSERS.values():
        parse(value)


def test_allowed_values() -> None:
    """Valid values are parsed."""
    assert parse_decimal(" 123 ") == 123
    assert parse_decimal("0") == 0
    assert parse_date("Wed, 21 Oct 2026 07:28:00 GMT") == NOW
    assert parse_content_range("bytes 0-499/1234") == ContentRange(0, 499, 1234)
    assert parse_content_range(" bytes  5-9/* ") == ContentRange(5, 9, None)
    assert parse_validator('W/"abc"') == 'W/"abc"'
    assert parse_validator("Wed, 21 Oct 2026 07:28:00 GMT") == "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("9" * 18, 86_400),
        ("9" * 5000, None),
        ("²", None),
        ("-5", None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2020 07:28:30 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 86_400),
    ],
)
def test_retry_after(value: str, seconds: int | None) -> None:
    """Retry-After is from 0 to a day."""
    assert parse_retry_after(value, NOW) == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "error",
    [
        ExtractorError(f"premieres in {'9' * 5000} hours", expected=True),
        ExtractorError("premieres in ² hours", expected=True),
        ExtractorError("\ud800 premieres in", expected=True),
        ExtractorError("try again later " * 100_000, expected=True),
        ExtractorError("\n" * 1_000_000, expected=True),
        GeoRestrictedError("not here", countries=[None, 5, "DE"]),
    ],
    ids=["digits", "superscript", "surrogate", "repeated pattern", "line ends", "countries"],
)
def test_classification_of_a_hostile_message(error: Exception) -> None:
    """Whatever a site's message is, its failure is classified and can be sent, in bounded time."""
    to_status(classify(error, ResponseLog(), "http://a.test/"))


def test_classification_of_a_message() -> None:
    """The time until an event is read from an ordinary message."""
    failure = classify(ExtractorError("Premieres in 2 hours", expected=True), ResponseLog(), "http://a.test/")
    assert failure.reason == ErrorReason.MEDIA_NOT_LIVE_YET
    assert failure.retry_delay is not None
    assert timedelta(hours=1, minutes=59) < failure.retry_delay <= timedelta(hours=2)


ENGINE_VALUES = ["²", "9" * 5000, "Wed, 21 Oct 99999999999999999999 07:28:00 GMT", "-1", "٣"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("status", ["429 Too many requests", "503 Unavailable"])
@pytest.mark.parametrize("value", ENGINE_VALUES, ids=lambda value: ascii(value)[:20])
async def test_retry_after_of_a_site(harness: Harness, status: str, value: str) -> None:
    """A site's Retry-After costs the job its delay at most, not the child its life."""
    async with running_site() as site:
        head = f"HTTP/1.1 {status}\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n"
        site.responses["/"] = head.encode("latin-1" if value == "²" else "utf-8")
        with pytest.raises(ReelhaulError) as failure:
            await harness.probe(f"http://{PUBLIC}:{site.port}/")
    throttled = status.startswith("429")
    expected = ErrorReason.UPSTREAM_THROTTLED if throttled else ErrorReason.UPSTREAM_UNAVAILABLE
    assert ErrorReason.Name(failure.value.reason) == ErrorReason.Name(expected), failure.value.text
    assert failure.value.retry_delay is None


@pytest.mark.asyncio(loop_scope="module")
async def test_valid_retry_after_of_a_site(harness: Harness) -> None:
    """An ordinary Retry-After reaches the job."""
    async with running_site() as site:
        site.responses["/"] = b"HTTP/1.1 429 Busy\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n"
        with pytest.raises(ReelhaulError) as failure:
            await harness.probe(f"http://{PUBLIC}:{site.port}/")
    assert failure.value.retry_delay == timedelta(seconds=90)


MEDIA_FIELDS = [
    ("Content-Range", "bytes 0-²/5"),
    ("Content-Range", f"bytes 0-{'9' * 5000}/*"),
    ("Content-Range", f"bytes 0-3/{'9' * 5000}"),
    ("ETag", f'"{"x" * 20_000}"'),
    ("ETag", '"\xff²"'),
    ("Last-Modified", "²"),
    ("Last-Modified", "9" * 5000),
    ("Age", "9" * 5000),
    ("Date", "9" * 5000),
    ("X-None", "1"),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("status", ["200 OK", "206 Partial content"])
@pytest.mark.parametrize(
    ("name", "value"), MEDIA_FIELDS, ids=[f"{name} {ascii(value)[:15]}" for name, value in MEDIA_FIELDS]
)
async def test_fields_of_a_media_file(harness: Harness, status: str, name: str, value: str) -> None:
    """A media file with hostile header values is judged by its bytes: the child reports why it fails."""
    async with running_site() as site:
        head = f"HTTP/1.1 {status}\r\nContent-Type: video/mp4\r\n{name}: {value}\r\nContent-Length: 4\r\n\r\n"
        site.responses["/v.mp4"] = head.encode("latin-1") + b"none"
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(f"http://{PUBLIC}:{site.port}/v.mp4", listener=FetchListener())
    assert failure.value.reason not in (ErrorReason.WORKER_LOST, ErrorReason.INTERNAL_ERROR)
    if status == "200 OK":
        assert failure.value.reason == ErrorReason.VERIFICATION_FAILED, failure.value.text
