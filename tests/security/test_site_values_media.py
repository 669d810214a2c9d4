"""Values of metadata, playlists and subtitles are converted to a value or to none: no job dies of one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from tests.fetcher.conftest import Harness
from tests.fetcher.conftest import engine_environment as engine_environment
from tests.fetcher.conftest import harness as harness
from tests.fetcher.guard_harness import PUBLIC, running_site

from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, PlaylistEntry, Progress
from reelhaul_fetcher.model import site_limits, subtitle_formats
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.site_limits import SiteValues
from reelhaul_fetcher.model.timing import cues
from reelhaul_fetcher.model.timing.cues import Cue
from reelhaul_fetcher.model.tracks import subtitle_tracks
from reelhaul_fetcher.ytdlp.extract.entries import to_entry
from reelhaul_fetcher.ytdlp.extract.info import to_format, to_media_info
from reelhaul_fetcher.ytdlp.live.recorder import Recording

Subtitles = FormatSpec.Subtitles

HOSTILE: list[Any] = [
    None,
    "",
    "²",
    "9" * 5000,
    10**5000,
    -(10**30),
    10**30,
    -1,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
    "nan",
    "1e400",
    "\ud800",
    "\0",
    True,
    [],
    {},
    b"\xff",
]
_NUMBERS = ("duration", "view_count", "age_limit", "timestamp", "release_timestamp", "playlist_count")
_TEXTS = ("extractor", "id", "title", "description", "uploader", "thumbnail", "language", "webpage_url")
_FORMAT_NUMBERS = ("width", "height", "fps", "tbr", "filesize", "filesize_approx", "audio_channels")
_FORMAT_TEXTS = ("format_id", "ext", "vcodec", "acodec", "language", "protocol", "dynamic_range")


def hostile_info(value: Any) -> dict[str, Any]:
    """Return the info dict of a video whose values are all *value*."""
    stream = dict.fromkeys((*_FORMAT_NUMBERS, *_FORMAT_TEXTS, "language_preference"), value)
    return {
        **dict.fromkeys((*_NUMBERS, *_TEXTS), value),
        "live_status": "is_upcoming",
        "formats": [stream],
        "chapters": [{"title": value, "start_time": value, "end_time": value}],
        "subtitles": {str_or(value, "en"): [{"name": value}]},
        "automatic_captions": {"de": [{"name": value}]},
    }


def str_or(value: Any, default: str) -> str:
    """Return *value* if it is text."""
    return value if isinstance(value, str) else default


def check(media: MediaInfo) -> None:
    """Check that *media* can be sent, shown as JSON, and read back."""
    json_format.MessageToJson(media)
    assert MediaInfo.FromString(media.SerializeToString()) == media


@pytest.mark.parametrize(
    "value", HOSTILE, ids=lambda value: ascii(value)[:20] if value != 10**5000 else "digits"
)
def test_hostile_metadata(value: Any) -> None:
    """Metadata of hostile values is converted to what protobuf and JSON accept."""
    media = to_media_info(hostile_info(value))
    check(media)
    (stream,) = media.formats
    assert stream.frame_rate >= 0
    assert math.isfinite(stream.frame_rate)
    assert 0 <= media.duration.seconds <= site_limits.MAX_SECONDS
    entry = {"_type": "url", "title": value, "id": value, "duration": value, "availability": value}
    to_entry(entry | {"url": value}, {}, SiteValues())
    result = to_entry(entry | {"url": "https://video.example/1"}, {}, SiteValues())
    assert result is not None
    assert PlaylistEntry.FromString(result.SerializeToString()) == result


def test_ordinary_metadata() -> None:
    """Ordinary values arrive."""
    info = {"duration": 12.5, "view_count": 7, "timestamp": 1_700_000_000, "age_limit": 18, "title": "Café"}
    media = to_media_info(info | {"formats": [{"format_id": "1", "width": 640, "fps": 29.97, "tbr": 128.5}]})
    assert (media.duration.seconds, media.duration.nanos) == (12, 500_000_000)
    assert (media.view_count, media.age_limit, media.title) == (7, 18, "Café")
    assert media.publish_time.ToSeconds() == 1_700_000_000
    stream = media.formats[0]
    assert (stream.width, round(stream.frame_rate, 2), stream.bitrate_bps) == (640, 29.97, 128_500)
    assert to_format({"filesize": 5}).size_bytes == 5
    assert to_format({"filesize_approx": 5.7}).size_estimated


@given(
    st.one_of(
        st.text(st.characters(codec=None, categories=None)),
        st.integers(),
        st.floats(),
        st.binary(),
        st.lists(st.integers()),
        st.none(),
    )
)
def test_any_value(value: Any) -> None:
    """No value raises, and every number is within its limit."""
    for converted in (site_limits.number(value, 1e9), site_limits.whole(value, 10**9)):
        assert converted is None or 0 <= converted <= 1e9
    site_limits.timestamp(value)
    site_limits.clean(value).encode()
    assert len(site_limits.shorten(value, 10)[0]) <= 10


def json3(*events: str) -> str:
    """Return a json3 file of *events*."""
    return f'{{"events": [{", ".join(events)}]}}'


GOOD_EVENT = '{"tStartMs": 1000, "dDurationMs": 500, "segs": [{"utf8": "good"}]}'
HOSTILE_EVENTS = [
    '{"tStartMs": 1e400, "dDurationMs": 1, "segs": [{"utf8": "x"}]}',
    '{"tStartMs": 1, "dDurationMs": 1e400, "segs": [{"utf8": "x"}]}',
    '{"tStartMs": NaN, "dDurationMs": 1, "segs": [{"utf8": "x"}]}',
    '{"tStartMs": -5, "dDurationMs": 1, "segs": [{"utf8": "x"}]}',
    '{"tStartMs": 1' + "0" * 400 + ', "dDurationMs": 1, "segs": [{"utf8": "x"}]}',
    '{"tStartMs": {}, "dDurationMs": 1, "segs": [{"utf8": "x"}]}',
    '{"tStartMs": 1, "dDurationMs": 1, "segs": [{"utf8": "\\ud800 x"}]}',
]


@pytest.mark.parametrize("event", HOSTILE_EVENTS, ids=range(len(HOSTILE_EVENTS)))
def test_hostile_json3(event: str) -> None:
    """A cue that cannot be shown is left out, and text that cannot be written is replaced; the rest stays."""
    track = subtitle_formats.parse(json3(event, GOOD_EVENT))
    assert track.cues[-1] == Cue(1.0, 1.5, "good")
    for form in (Subtitles.SRT, Subtitles.VTT, Subtitles.TXT, Subtitles.JSON):
        assert b"good" in cues.render(track.cues, form).encode()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        '{"events": 5}',
        '{"events": [5]}',
        '{"events": [{"segs": [{"utf8": 5}]}]}',
        "[" * 100_000,
        "9" * 5000,
        json3(*HOSTILE_EVENTS[:5]),
    ],
    ids=range(8),
)
def test_unreadable_json3(text: str) -> None:
    """A json3 file of another form is refused as one without cues is."""
    with pytest.raises(ValueError, match=r".+"):
        subtitle_formats.parse(text)


@pytest.mark.parametrize("hours", ["9" * 5000, "9" * 400], ids=["5000 digits", "400 digits"])
def test_hostile_times(hours: str) -> None:
    """A cue at an absurd time is left out."""
    text = f"WEBVTT\n\n{hours}:00:01.000 --> {hours}:00:02.000\nx\n\n00:01.000 --> 00:02.000\ngood\n"
    assert subtitle_formats.parse(text) == subtitle_formats.Track([Cue(1.0, 2.0, "good")], wrong=1)
    text = "WEBVTT\n\n99:00:01.000 --> 99:00:02.000\nx\n"
    assert subtitle_formats.parse(text).cues[0].start == 99 * 3600 + 1


def test_endless_text() -> None:
    """A track with more text than any video is refused."""
    text = json3(json.dumps({"tStartMs": 1, "segs": [{"utf8": "x" * 3_000_000}]}))
    with pytest.raises(ValueError, match="characters"):
        subtitle_formats.parse(text)


@pytest.mark.parametrize(
    "keys", [["en"], ["x" * 100_000, "en"], ["\ud800", "en"], [f"x{n}" for n in range(9999)]]
)
def test_offered_tracks(keys: list[str]) -> None:
    """The number of tracks is bounded, and so is what is kept of their keys."""
    info = {"subtitles": {key: [{"ext": "vtt"}] for key in keys}}
    tracks = subtitle_tracks.offered_tracks(info, "subtitles")
    assert len(tracks) == min(len(keys), site_limits.MAX_SUBTITLE_TRACKS)
    assert all(len(track.key) <= 200 and len(track.language) <= 35 for track in tracks)
    if "en" in keys:
        (selection,) = subtitle_tracks.select_tracks(info, Subtitles(languages=["en"]))
        assert [track.key for track in selection.candidates] == ["en"]


def test_time_left_of_an_absurd_size() -> None:
    """The time left of an absurd download can be sent as JSON."""
    sent: list[Progress] = []
    seconds = iter(range(100))
    tracker = ProgressTracker(sent.append, lambda: float(next(seconds)))
    tracker.set_plan({"a": site_limits.MAX_BYTES}, site_limits.MAX_BYTES)
    tracker.begin_stage(Progress.DOWNLOADING)
    for received in (1, 2, 3):
        tracker.update_part("a", received)
    assert sent[-1].HasField("eta")
    json_format.MessageToJson(sent[-1])


def test_recording_warning() -> None:
    """A recording of an ordinary length has its warning."""
    assert (
        Recording([], [0.0], [5.0], 5.0, 0.0, 11).warnings[0].message == "the recording was stopped after 5 s"
    )


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "event", ["", HOSTILE_EVENTS[0], HOSTILE_EVENTS[6]], ids=["ordinary", "time", "text"]
)
async def test_subtitles_of_a_site(harness: Harness, event: str) -> None:
    """Hostile cues of a site do not fail the job: what can be written of its subtitles is written."""
    async with running_site() as site:
        bodies = {
            "/en.json3": json3(*([event] if event else []), GOOD_EVENT),
            "/page": "<html><head><title>t</title></head><video src='/v.mp4'>"
            "<track kind='subtitles' srclang='en' src='/en.json3'></video></html>",
        }
        for path, body in bodies.items():
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
            site.responses[path] = (head + body).encode()
        spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
        result = await harness.fetch(f"http://{PUBLIC}:{site.port}/page", spec)
    (product,) = result.products
    assert "good" in product.path.read_text(encoding="utf-8")
