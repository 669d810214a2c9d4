"""Parsers of the services and the clients take time in proportion to their input.

To cover another parser, add a line to CASES: an input of n units that an attacker would choose, and the
call that parses it. ``make attack`` mutates the same inputs.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import math
import random
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from yt_dlp.networking import Response
from yt_dlp.utils import YoutubeDLError

from reelhaul import file_names
from reelhaul.cli.output import printable
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.jobs.v1 import job_pb2, schedule_service_pb2
from reelhaul.jobs.v1.webhook_pb2 import Webhook
from reelhaul.rest import CallFailed, _errors
from reelhaul.rest._events import EventParser
from reelhaul.rest._transport import parse_message
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul.type.v1.media_pb2 import Format, FormatSpec, MediaInfo
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_fetcher.model import cookies, hls_playlist, subtitle_formats
from reelhaul_fetcher.model.subtitle_formats import charsets, mp4
from reelhaul_fetcher.model.timing import chapters, cues, cuts
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.model.timing.cues import Cue
from reelhaul_fetcher.model.timing.cuts import TimeRange
from reelhaul_fetcher.model.tracks import languages, subtitle_tracks, track_roles
from reelhaul_fetcher.ytdlp import errors
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog
from reelhaul_fetcher.ytdlp.extract import dash_manifest, info, manifest_tracks
from reelhaul_fetcher.ytdlp.extras import sponsorblock
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import validation
from reelhaul_jobs.api.schedules import listing, messages
from reelhaul_jobs.api.webhooks import messages as webhook_messages
from reelhaul_jobs.api.webhooks.validation import validate as validate_webhook
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model.cron import parse_cron
from reelhaul_runtime import sites
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.file_responses import build_response
from reelhaul_runtime.filters.evaluate import matches
from reelhaul_runtime.filters.parser import parse as parse_filter
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.validation import formats, urls
from reelhaul_runtime.validation.violations import FieldViolations
from reelhaul_storage.api import queries, requests
from reelhaul_storage.local_links import parse_path

# A shorter time says more about the clock than about the parser.
_MIN_SECONDS = 0.004
# The work for an input 8 times as large may be 8 times as much; a quadratic parser needs 64 times as much.
_FACTOR, _MAX_RATIO = 8, 24
_TRIES = 5
# What the largest input of a bounded parser may take.
_MAX_SECONDS = 1.0
# A decoder that is quadratic is found long before its largest input is reached.
_MAX_UNITS = 100_000

_NOW = datetime(2026, 11, 1, tzinfo=UTC)
# Inputs that differ, for parsers that remember.
_NUMBERS = itertools.count()
_TOKENS = PageTokens("secret", lambda: _NOW)


@dataclass(frozen=True)
class Case:
    """A parser and the input that would be the most work for it."""

    name: str
    #: Returns an input of n units.
    build: Callable[[int], Any]
    parse: Callable[[Any], object]
    #: Largest n to try; the largest input that reaches the parser needs no more.
    max_units: int = _MAX_UNITS


def _filter(text: str) -> None:
    parse_filter(text, JOB_FIELDS)


def _evaluate(title: str) -> None:
    node = parse_filter('media.title = "*aab*"', JOB_FIELDS)
    assert node is not None
    matches(node, {"media.title": title})


def _list_schedules(**arguments: str) -> None:
    listing.list_response(schedule_service_pb2.ListSchedulesRequest(**arguments), [], _TOKENS)


def _next_run(expression: str) -> None:
    parse_cron(expression, "", _NOW).next_after(_NOW)


def _check_url(url: str) -> None:
    violations = FieldViolations()
    urls.check_url(url, "url", violations)
    urls.redact(url)
    violations.raise_if_any()


def _labels(labels: dict[str, str]) -> None:
    violations = FieldViolations()
    validation.check_labels(job_pb2.Job(labels=labels), violations)
    violations.raise_if_any()


def _format(spec: FormatSpec) -> None:
    violations = FieldViolations()
    formats.check_format(spec, "format", violations)
    violations.raise_if_any()


def _list_artifacts(**arguments: str) -> None:
    caller = Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS)
    queries.query_from_proto(storage_service_pb2.ListArtifactsRequest(**arguments), 10, caller)


def _new_artifact(**fields_: Any) -> None:
    artifact = artifact_pb2.Artifact(**fields_)
    requests.new_artifact_from_proto(artifact, "artifact", _NOW, timedelta(days=1))


def _subtitles(text: str) -> None:
    """Read, cut and write subtitles as a fetch does."""
    cut = cuts.make_cut(None, [TimeRange(second, second + 0.5) for second in range(50)])
    track = cues.remove_rolling_lines(subtitle_formats.parse(text, "en").cues)
    shown, _misfits = cues.limit(cues.apply_cut(track, cut), 1e6)
    for output in cues.EXTENSION:
        cues.render(shown, output)


def _webvtt(text: str) -> None:
    _subtitles(f"WEBVTT\n\n{text}")


def _ttml(text: str) -> None:
    _subtitles(f"<tt><body>{text}")


def _sami(text: str) -> None:
    _subtitles(f"<SAMI><SYNC Start=1>{text}")


def _ass(text: str) -> None:
    _subtitles(f"[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,,,,,,,a\n{text}")


def _box(kind: bytes, payload: bytes) -> bytes:
    return (len(payload) + 8).to_bytes(4, "big") + kind + payload


def _nested_boxes(count: int) -> bytes:
    """Return *count* boxes, each in the one before."""
    sizes = range(8 * count, 0, -8)
    return b"".join(size.to_bytes(4, "big") + b"moof" for size in sizes)


def _fragment(entries: bytes, count: int) -> bytes:
    """Return a fragment of *count* samples, whose durations and sizes are *entries*."""
    flags = 0x300 if entries else 0
    run = flags.to_bytes(4, "big") + count.to_bytes(4, "big") + entries
    return _box(b"moof", _box(b"traf", _box(b"trun", run))) + _box(b"mdat", b"")


def _cue(text: str) -> str:
    return f"1\n00:00:01.000 --> 00:00:02.000\n{text}\n\n"


def _playlist(text: str) -> None:
    hls_playlist.parse(f"#EXTM3U\n{text}", "https://site.test/live/index.m3u8")


def _manifest(body: str) -> None:
    try:
        manifest = ElementTree.fromstring(f"<MPD>{body}</MPD>")
    except ElementTree.ParseError:
        return  # yt-dlp refuses it before
    dash_manifest.complete(manifest)


def _join_periods(count: int) -> None:
    stream = {"format_id": "v", "ext": "mp4", "vcodec": "avc1", "acodec": "none", "url": "https://site.test/"}
    period = {"formats": [stream], "subtitles": {}, "seconds": 4.0}
    dash_manifest.join_periods([period] * count)


def _cookie(line: str) -> None:
    cookies.parse(cookies.with_header(line))


def _select(selector: str) -> None:
    select_formats(selector, [Format(format_id="1", video_codec="h264", audio_codec="aac")])


def _chapters(count: int) -> None:
    """Lay as many segments as SponsorBlock may send over *count* chapters of a site."""
    base = [Chapter("a", TimeRange(second, second + 1)) for second in range(count)]
    top = [Chapter("b", TimeRange(second, second + 0.5)) for second in range(50)]
    chapters.to_ffmetadata(chapters.apply_cut(chapters.overlay(base, top), cuts.Cut(), math.inf))


def _media_info(value: dict[str, Any]) -> MediaInfo:
    return info.to_media_info(value)


def _tracks(count: int) -> dict[str, Any]:
    return {f"en-x-a{number}": [{"url": "a"}] for number in range(count)}


def _choose_tracks(tracks: dict[str, Any]) -> None:
    request = FormatSpec.Subtitles(languages=["original", "en", "all"])
    subtitle_tracks.select_tracks({"subtitles": tracks}, request)


def _hls_groups(count: int) -> str:
    return "".join(f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="{number}",URI="{number}"\n' for number in range(count))


def _hls_tracks(text: str) -> None:
    streams: list[dict[str, Any]] = [{"url": f"https://site.test/{name}", "vcodec": "none"} for name in "bv"]
    manifest_tracks.annotate_hls(streams, {}, text, "https://site.test/master")


def _html_tracks(page: str) -> None:
    manifest_tracks.annotate_html([{"subtitles": {"en": [{"url": "a"}]}}], page, "https://site.test/")


def _classify(message: str) -> None:
    errors.classify(YoutubeDLError(message), ResponseLog(), "https://site.test/")


class _SponsorBlockServer(Downloader):
    """Answers every request with one body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    @contextmanager
    def logging_paused(self) -> Iterator[None]:
        yield

    def urlopen(self, req: Any) -> Any:
        """Return the response."""
        return Response(io.BytesIO(self._body), "https://sponsor.test/", {})


def _sponsor_segments(body: bytes) -> sponsorblock.Segments:
    media = MediaInfo(extractor="youtube", media_id="x")
    segments = sponsorblock.fetch_segments(
        _SponsorBlockServer(body), media, FormatSpec.SponsorBlock(), "https://sponsor.test"
    )
    cuts.make_cut(None, [chapter.time_range for chapter in segments.chapters])
    return segments


def _sponsor_body(count: int) -> bytes:
    """Return an answer of *count* entries for one video, each with one segment."""
    return json.dumps(
        [
            {"videoID": "x", "segments": [{"segment": [second, second + 0.5], "category": "sponsor"}]}
            for second in range(count)
        ]
    ).encode()


def _watch_events(content: bytes) -> None:
    """Parse the stream *content* of a watch, which arrives in small chunks."""
    parser = EventParser()
    for start in range(0, len(content), 64):
        for name, data in parser.feed(content[start : start + 64]):
            parse_message(name, data, WatchProgressResponse())


def _failure(retry_after: str, body: bytes = b"") -> CallFailed:
    request = httpx.Request("GET", "http://gateway.test/")
    headers = {"Retry-After": retry_after} if retry_after else {}
    return _errors.from_response(httpx.Response(503, headers=headers, content=body, request=request))


# A letter with marks of two classes, in the order that takes the longest to sort.
def _marks(count: int) -> str:
    return "a" + "\u0300" * count + "\u0316" * count


_LINK = "generation=0&disposition=inline&key=a&signature=b"


def _parse_link(query: str) -> object:
    return parse_path("00000000-0000-4000-8000-000000000000", "a.mp4", query)


def _compare_etags(header: bytes) -> object:
    return build_response("GET", {b"if-none-match": header}, [], 1, b'"x"')


CASES = [
    # jobs
    Case("filter: parentheses", lambda n: "(" * n, _filter, 8200),
    Case("filter: terms", lambda n: "state = RUNNING AND " * n, _filter, 410),
    Case("filter: spaces", lambda n: "state" + " " * n + "x", _filter, 8200),
    Case("filter: long name", lambda n: "a." * n, _filter, 4100),
    Case("filter: open quote of escapes", lambda n: 'url = "' + '\\"' * n, _filter, 4100),
    Case("filter: wildcards", lambda n: 'url = "' + "*" * n + '"', _filter, 8200),
    Case("filter: negations", lambda n: "-" * n + "NOT " * n, _filter, 1650),
    Case("filter: longer than allowed", lambda n: "(" * 8193 * n, _filter, 400),
    Case("filter: wildcard against a title", lambda n: "aa" * n, _evaluate),
    Case("order_by: words", lambda n: {"order_by": "a " * n}, lambda a: _list_schedules(**a)),
    Case("order_by: spaces", lambda n: {"order_by": " " * n}, lambda a: _list_schedules(**a)),
    Case("page token", lambda n: {"page_token": "A" * n}, lambda a: _list_schedules(**a)),
    Case("cron: fields", lambda n: "0," * n + "0 * * * *", _next_run),
    Case("cron: short fields", lambda n: ("0," * n)[:180] + "0 * * * *", _next_run, 90),
    Case("cron: interval", lambda n: "@every " + "1" * n + "h", _next_run),
    Case("cron: spaces", lambda n: "@every" + " " * n + "1h", _next_run),
    Case("cron: time zone", lambda n: "A/" * n, lambda zone: parse_cron("@daily", zone, _NOW)),
    Case("URL: labels", lambda n: "https://" + "a." * n + "b/", _check_url),
    Case("URL: user info", lambda n: "https://" + "a:" * n + "@b/", _check_url),
    Case("URL: brackets", lambda n: "http://" + "[:" * n, _check_url),
    Case("URL: marks in the host", lambda n: f"https://{_marks(n)}/", _check_url),
    Case("URL: digits", lambda n: "https://" + "1" * n + "/", _check_url),
    Case("site: labels", lambda n: f"https://{next(_NUMBERS)}." + "a." * n + "youtube.com/", sites.site_of),
    Case("site: prefixes", lambda n: "https://" + "www." * n + "b/", sites.host_of),
    Case("labels: number", lambda n: {f"k{i}": "v" for i in range(n)}, _labels),
    Case("labels: key", lambda n: {"a" * n: "v"}, _labels),
    Case("attempt name", lambda n: "/attempts/1" * n, fields.parse_attempt_name),
    Case("job name", lambda n: "jobs/" * n, fields.parse_job_id),
    Case("schedule name", lambda n: "schedules/a" + "-" * n, messages.parse_schedule_id),
    Case(
        "delivery name",
        lambda n: "webhooks/a" + "/deliveries/" * n,
        webhook_messages.parse_delivery_name,
    ),
    Case(
        "webhook: event types",
        lambda n: Webhook(url="https://hooks.example/", event_types=["job.*"] * n),
        validate_webhook,
    ),
    Case("format: selector", lambda n: FormatSpec(selector="[" * n), _format),
    Case(
        "format: languages",
        lambda n: FormatSpec(subtitles=FormatSpec.Subtitles(languages=["a-" * n])),
        _format,
    ),
    # storage
    Case("link: parameters", lambda n: "a=b&" * n, _parse_link),
    Case(
        "link: digits",
        lambda n: f"expires={'1' * n}&generation=0&disposition=inline&key=a&signature=b",
        _parse_link,
    ),
    Case(
        "link: network",
        lambda n: f"expires=1&generation=0&disposition=inline&key=a&signature=b&cidr={'1.' * n}",
        _parse_link,
    ),
    # gateway and storage
    Case("If-None-Match: entity tags", lambda n: b'W/"a",' * n, _compare_etags),
    Case("If-None-Match: quotes", lambda n: b'"' * n, _compare_etags),
    Case("If-None-Match: an open quote", lambda n: b'W/"' + b"W/" * n, _compare_etags),
    # storage
    Case("artifacts: terms", lambda n: {"filter": "epoch=1 AND " * n}, lambda a: _list_artifacts(**a), 170),
    Case("artifacts: spaces", lambda n: {"filter": " " * n}, lambda a: _list_artifacts(**a)),
    Case("artifacts: field", lambda n: {"filter": "a" * n}, lambda a: _list_artifacts(**a)),
    Case("artifacts: order_by", lambda n: {"order_by": "a " * n}, lambda a: _list_artifacts(**a)),
    Case(
        "artifact: name",
        lambda n: "artifacts/" + "-" * n,
        lambda name: requests.parse_name(name, "artifacts"),
    ),
    Case("artifact: job", lambda n: {"job": "jobs/a" + "." * n + "!"}, lambda a: _new_artifact(**a)),
    Case(
        "artifact: media type",
        lambda n: {"media_type": "a" * n + "/" + "b" * n},
        lambda a: _new_artifact(**a),
    ),
    Case(
        "artifact: marks in the file name", lambda n: {"file_name": _marks(n)}, lambda a: _new_artifact(**a)
    ),
    Case("artifact: dots", lambda n: {"file_name": " ." * n + "x"}, lambda a: _new_artifact(**a)),
    # file names and other text of sites
    Case("title: marks", _marks, lambda title: file_names.from_title(title, "mp4")),
    Case(
        "title: marks in sequences",
        lambda n: "a" + "\u0f73" * n,
        lambda title: file_names.from_title(title, "mp4"),
    ),
    Case("title: spaces", lambda n: "a" + " \t" * n + "b", lambda title: file_names.from_title(title, "mp4")),
    Case("title: reserved", lambda n: '<>:"' * n, lambda title: file_names.from_title(title, "mp4")),
    Case("server's file name: marks", _marks, file_names.sanitize_untrusted),
    Case("server's file name: dots", lambda n: "." * n + "a" + ". " * n, file_names.sanitize_untrusted),
    Case("metadata: marks", lambda n: {"title": _marks(n)}, _media_info),
    Case("metadata: chapters", lambda n: {"chapters": [{"title": "a"}] * n}, _media_info),
    Case("tracks: choice", _tracks, _choose_tracks, 5000),
    Case("tracks: forms", lambda n: {"en": [{"ext": "vtt"}] * n}, _choose_tracks),
    Case("language: subtags", lambda n: "en-" * n, languages.to_tag),
    Case("language: marks", lambda n: "-_" * n, languages.to_tag),
    Case("role: words", lambda n: "audio d" * n, lambda name: track_roles.from_texts("en", name)),
    Case(
        "HLS tracks: renditions", lambda n: '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",URI="b"\n' * n, _hls_tracks
    ),
    Case("HLS tracks: groups", _hls_groups, _hls_tracks),
    Case("HLS tracks: variants", lambda n: '#EXT-X-STREAM-INF:AUDIO="a"\nv\n' * n, _hls_tracks),
    Case("HTML tracks: open tags", lambda n: "<track " * n, _html_tracks),
    Case("HTML tracks: spaces", lambda n: "<track" + " " * n, _html_tracks),
    Case("metadata: tracks", lambda n: {"subtitles": {f"a{i}": [{}] for i in range(n)}}, _media_info),
    Case("terminal: escapes", lambda n: "\x1b[" * n + "a", printable),
    # fetcher
    *(
        Case(f"{name}: {unit}", build, parse, max_units)
        for name, parse in (("WebVTT", _webvtt), ("SubRip", lambda text: _subtitles(_cue("a") + text)))
        for unit, build, max_units in (
            ("digits", lambda n: "1" * n, _MAX_UNITS),
            ("digits and colons", lambda n: "1:" * n, _MAX_UNITS),
            ("spaces before the arrow", lambda n: "00:00.0" + " " * n + "x", _MAX_UNITS),
            ("times without an end", lambda n: "00:00.0 --> " * n, _MAX_UNITS),
            ("open tags", lambda n: _cue("<" * n), _MAX_UNITS),
            ("tags", lambda n: _cue("<b>a" * n), _MAX_UNITS),
            ("open tags with names", lambda n: _cue("<b " * n), _MAX_UNITS),
            ("open overrides", lambda n: _cue("{\\" * n), _MAX_UNITS),
            ("references", lambda n: _cue("&" * n + "&amp;" * n + "&#x;" * n), _MAX_UNITS),
            ("blank lines", lambda n: _cue("a") + "\n \t\r\n" * n, _MAX_UNITS),
            ("numbers before times", lambda n: _cue("1\n" * n), _MAX_UNITS),
            ("line of spaces", lambda n: "\n" + " " * n + "x" + "\n" * n, _MAX_UNITS),
            ("lines of a cue", lambda n: _cue("a\n" * n), _MAX_UNITS),
            ("cues", lambda n: _cue("a b") * n, 20_000),
            ("cues at one time", lambda n: "".join(_cue(str(i)) for i in range(n)), 20_000),
            ("segments", lambda n: "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:1,LOCAL:0\n\n" * n, 20_000),
            ("headers", lambda n: "WEBVTT " * n, _MAX_UNITS),
        )
    ),
    Case(
        "json3",
        lambda n: json.dumps({"events": [{"tStartMs": i, "segs": [{"utf8": "a"}] * 2} for i in range(n)]}),
        _subtitles,
        20_000,
    ),
    Case("TTML: depth", lambda n: "<p>a" * n, _ttml),
    Case(
        "TTML: depth with an end",
        lambda n: "<p begin='1s'>a" * n + "</p>" * n + "</body></tt>",
        _ttml,
        20_000,
    ),
    Case("TTML: paragraphs", lambda n: "<p begin='1s'>a</p>" * n + "</body></tt>", _ttml, 20_000),
    Case("TTML: attributes", lambda n: "<p " + " ".join(f"a{i}='1'" for i in range(n)) + "/>", _ttml, 20_000),
    Case("TTML: spaces", lambda n: "<p>" + " " * n + "</p></body></tt>", _ttml),
    Case("TTML: ampersands", lambda n: "<p>" + "&" * n + "&amp" * n + "</p></body></tt>", _ttml),
    Case("TTML: declarations", lambda n: "<?xml ?>" * n, _ttml),
    Case("TTML: open tags", lambda n: "<" * n, _ttml),
    Case("TTML: digits of a time", lambda n: f"<p begin='{'1' * n}'>a</p></body></tt>", _ttml),
    Case("TTML in MP4: open documents", lambda n: b"\0\0\0\0moof" + b"<tt >" * n, mp4.to_text),
    Case("TTML in MP4: ends", lambda n: b"\0\0\0\0moof" + b"</tt" + b" " * n, mp4.to_text),
    Case("WebVTT in MP4: boxes", lambda n: b"\0\0\0\x08moof" * n, mp4.to_text),
    Case("WebVTT in MP4: depth", _nested_boxes, mp4.to_text, 20_000),
    Case("WebVTT in MP4: samples", lambda n: _fragment(b"\0" * 8 * n, n), mp4.to_text, 20_000),
    Case("WebVTT in MP4: any number of samples", lambda n: _fragment(b"", 2**32 - 1) + b"a" * n, mp4.to_text),
    Case("SAMI: open tags", lambda n: "<" * n, _sami),
    Case("SAMI: tags", lambda n: "<P Class=a>" * n, _sami),
    Case("SAMI: classes", lambda n: "".join(f"<P Class=a{i}>x" for i in range(n)), _sami, 20_000),
    Case("SAMI: texts", lambda n: "<SYNC Start=1>a" * n, _sami, 20_000),
    Case("SAMI: comments", lambda n: "<!--" * n + "-->" * n, _sami),
    Case("SAMI: style sheet", lambda n: ".a{" * n + ".a" * n + " " * n, _sami),
    Case("SAMI: spaces in a tag", lambda n: "<SYNC start" + " " * n + ">", _sami),
    Case("ASS: blocks", lambda n: "Dialogue: 0,0:00:01.00,0:00:02.00,,,,,,," + "{\\p1}" * n, _ass),
    Case("ASS: open blocks", lambda n: "Dialogue: 0,0:00:01.00,0:00:02.00,,,,,,," + "{" * n, _ass),
    Case("ASS: commas", lambda n: "Format: " + "a," * n + "\nDialogue: " + "," * n, _ass),
    Case("ASS: dialogue", lambda n: "Dialogue: 0,0:00:01.00,0:00:02.00,,,,,,,b\n" * n, _ass, 20_000),
    Case("charset: no UTF-8", lambda n: b"\xff\n" * n, charsets.decode),
    Case("charset: one line", lambda n: "ж".encode("cp1251") * n, charsets.decode),
    Case("charset: XML", lambda n: b"<?xml " * n + b"\xff", charsets.decode),
    Case("charset: name", lambda n: "a" * n, lambda name: charsets.decode(b"\xff", name)),
    Case("HLS: URIs without an end", lambda n: "#EXT-X-MAP:" + 'URI="' * n, _playlist),
    Case("HLS: map without quotes", lambda n: "#EXT-X-MAP:URI=" * n, _playlist),
    Case("HLS: methods", lambda n: "#EXT-X-KEY:" + "METHOD=" * n + "METHOD=a", _playlist),
    Case("HLS: segments", lambda n: "#EXTINF:1,\na.ts\n" * n, _playlist, 20_000),
    Case("HLS: dots", lambda n: "../" * n + "a.ts", _playlist),
    Case("HLS: attributes", lambda n: "#EXT-X-KEY:" + 'A="' * n, _playlist),
    Case("HLS: range", lambda n: "#EXT-X-BYTERANGE:" + "1@" * n + "\na.ts", _playlist),
    Case("HLS: advertisements", lambda n: "#ANVATO-SEGMENT-INFO" + "type=a" * n, _playlist),
    Case("DASH: periods", lambda n: '<Period start="PT1S"/>' * n, _manifest),
    Case("DASH: duration", lambda n: '<Period duration="P' + "1D" * n + '"/>', _manifest),
    Case(
        "DASH: repetitions",
        lambda n: (
            '<Period duration="PT9S"><SegmentTemplate><SegmentTimeline>'
            + '<S d="1" r="-1"/>' * n
            + "</SegmentTimeline></SegmentTemplate></Period>"
        ),
        _manifest,
    ),
    Case("DASH: range", lambda n: '<Period><SegmentURL mediaRange="' + "1-" * n + '"/></Period>', _manifest),
    Case("DASH: ranges in a URL", lambda n: "#reelhaul-bytes=1-" * n, dash_manifest.split_range),
    Case("DASH: streams of periods", lambda n: n, _join_periods),
    Case("HLS: blank lines", lambda n: " \t\n" * n, _playlist),
    Case("HLS: number", lambda n: "#EXT-X-MEDIA-SEQUENCE:" + "1" * n, _playlist),
    Case("HLS: duration", lambda n: "#EXTINF:" + "1" * n + ",\na.ts", _playlist),
    Case("cookies: lines", lambda n: "a.test\tTRUE\t/\tTRUE\t0\ta\tb\n" * n, _cookie, 30_000),
    Case("cookies: tabs", lambda n: "\t" * n, _cookie),
    Case("cookies: expiry", lambda n: "a.test\tTRUE\t/\tTRUE\t1." + "1" * n + "x\ta\tb", _cookie),
    Case("cookies: blank lines", lambda n: " \n" * n, _cookie),
    Case("cookies: name", lambda n: "a" + "-" * n, cookies.NAME.fullmatch),
    Case("selector: choices", lambda n: "best/" * n + "best", _select, 100),
    Case("selector: merges", lambda n: "bv*+" * n + "ba", _select, 120),
    Case("selector: brackets", lambda n: "(" * n + "best" + ")" * n, _select, 240),
    Case("selector: spaces in a condition", lambda n: "best[height" + " " * n + "x", _select, 480),
    Case("selector: digits", lambda n: "best[height>" + "1" * n + "x]", _select, 480),
    Case("selector: longer than allowed", lambda n: "best/" * 100 * n, _select, 10_000),
    Case("chapters", lambda n: n, _chapters, 20_000),
    Case("SponsorBlock: entries for one video", _sponsor_body, _sponsor_segments, 15_000),
    Case("error of a site: repeated beginning", lambda n: "try again later account cookies " * n, _classify),
    Case("error of a site: blank lines", lambda n: "\n" * n + "x", _classify),
    Case("error of a site: brackets", lambda n: "ERROR:" + "[" * n + "\x1b[" * n, _classify),
    # clients
    Case("events: short lines", lambda n: b"data: {}\n" * n, _watch_events),
    Case("events: names", lambda n: b"event: a\n" * n, _watch_events),
    Case("events: a line without an end", lambda n: b"data: " + b"x" * n, _watch_events),
    Case("events: empty lines", lambda n: b"\n" * n, _watch_events),
    Case("events: carriage returns", lambda n: b"\r" * n, _watch_events),
    Case("Retry-After: digits", lambda n: "1" * n, _failure),
    Case(
        "error body: details",
        lambda n: json.dumps({"code": 3, "details": [{}] * n}).encode(),
        lambda body: _failure("", body),
        20_000,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_work_is_proportional_to_the_input(case: Case) -> None:
    """An input eight times as large takes about eight times as long, not 64 times as long."""
    units, seconds = _find_measurable_size(case)
    if units * _FACTOR > case.max_units * 2:
        # The largest input that can arrive takes no longer than a moment.
        assert seconds < _MAX_SECONDS
        return
    ratios = []
    for _ in range(_TRIES):
        ratios.append(_measure(case, units * _FACTOR) / max(seconds, _MIN_SECONDS / 2))
        if ratios[-1] <= _MAX_RATIO:
            return
        seconds = _measure(case, units)
    pytest.fail(f"{case.name}: {_FACTOR} times the input takes {min(ratios):.0f} times the work")


def _find_measurable_size(case: Case) -> tuple[int, float]:
    """Return the first size that takes a measurable time, or the largest one, and its seconds."""
    units = min(64, case.max_units)
    while (seconds := _measure(case, units)) < _MIN_SECONDS and units * 2 <= case.max_units:
        units *= 2
    return units, seconds


def _measure(case: Case, units: int) -> float:
    """Return the CPU seconds that this thread needs for an input of *units*."""
    value = case.build(units)
    # The garbage collector runs more often, and longer, where many other tests have left objects.
    gc.disable()
    try:
        start = time.thread_time()
        with suppress(ReelhaulError, CallFailed, ValueError):
            case.parse(value)
        return time.thread_time() - start
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "title",
    [
        "plain",
        "Crème brûlée",
        "a\u0316\u0300b",
        "\u1112\u1161\u11ab",
        "Z\u0300\u0301\u0316" * 9,
        "a" + "\u0300" * 30 + "b" + "\u0316" * 30,
        "\u0f40\u0f73\u0f71",
    ],
)
def test_text_of_any_language_is_normalized_as_before(title: str) -> None:
    """Up to 30 marks in a row, more than any language has, all are kept."""
    assert _media_info({"title": title}).title == unicodedata.normalize("NFC", title)


def test_surplus_marks_are_dropped() -> None:
    """Of 100 marks on one letter 30 stay, and the text after them."""
    assert _media_info({"title": "x" + "\u0316" * 100 + "é"}).title == "x" + "\u0316" * 30 + "é"


def test_file_name_of_many_marks() -> None:
    """A caller's and a site's name of 200,000 marks become names within the limit, with their extension."""
    name = _marks(100_000)
    assert file_names.from_title(name, "mp4").endswith(".mp4")
    assert file_names.sanitize(f"{name}.mp4").endswith(".mp4")
    assert len(file_names.sanitize_untrusted(f"{name}.mp4").encode()) <= file_names.MAX_BYTES


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://youtube.com/watch", "youtube.com"),
        ("https://a.b.c.music.youtube.com./watch", "youtube.com"),
        ("https://www.youtu.be/x", "youtube.com"),
        ("https://www.video.test/x", "video.test"),
        ("https://deep.video.test:8443/x", "deep.video.test"),
        ("http://localhost/x", "localhost"),
    ],
)
def test_sites_are_found_as_before(url: str, site: str) -> None:
    """The domains of an operator, at any depth, are one site; other hosts are their own."""
    assert sites.site_of(url) == site


def test_cues_are_read_as_before() -> None:
    """Times with and without hours, tags and references are read; a lone < is text."""
    text = (
        "WEBVTT\n\n1\n01:02.500 --> 01:03.000 align:start\n<c.a><i>one</i></c> &amp; two\n\n"
        "100:00:00,000 --> 100:00:01,000\n1 < 2 <b>always</b>\n"
    )
    assert subtitle_formats.parse(text).cues == [
        Cue(62.5, 63.0, "one & two"),
        Cue(360_000.0, 360_001.0, "1 < 2 always"),
    ]


def test_cut_of_overlapping_segments() -> None:
    """What is left does not depend on how the removed segments overlap."""
    seeded = random.Random(1)
    for _ in range(200):
        removed = [TimeRange(start, start + seeded.uniform(0.1, 9)) for start in seeded.sample(range(60), 12)]
        kept = cuts.make_cut(TimeRange(5, 55), removed).ranges
        moments = [seeded.uniform(5, 55) for _ in range(50)]
        for moment in moments:
            near_an_edge = any(
                abs(moment - edge) < 0.1 for gap in removed for edge in (gap.start, gap.end, 5, 55)
            )
            is_removed = any(gap.start <= moment <= gap.end for gap in removed)
            is_kept = any(part.start <= moment <= part.end for part in kept)
            assert near_an_edge or is_removed is not is_kept


def test_segments_of_a_video_are_limited_in_total() -> None:
    """The limit holds for all entries of one video together; fewer are taken as they are."""
    assert len(_sponsor_segments(_sponsor_body(1000)).chapters) == 50
    assert len(_sponsor_segments(_sponsor_body(49)).chapters) == 49


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("999999999", 999_999_999), ("1" * 5000, None), ("²", None), ("-1", None), ("soon", None)],
)
def test_retry_after_of_a_response(header: str, seconds: int | None) -> None:
    """Seconds are taken; what is none, or absurd, is no advice instead of an exception."""
    request = httpx.Request("GET", "http://gateway.test/")
    headers = [(b"Retry-After", header.encode())]
    failure = _errors.from_response(httpx.Response(503, headers=headers, request=request))
    assert failure.retry_delay == (None if seconds is None else timedelta(seconds=seconds))
