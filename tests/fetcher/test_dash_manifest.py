"""DASH manifests: what is implied is completed before yt-dlp reads it, and periods are joined."""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree

import pytest

from reelhaul_fetcher.ytdlp.extract import dash_manifest

_NAMESPACE = "urn:mpeg:dash:schema:mpd:2011"


def _manifest(body: str, attributes: str = "") -> ElementTree.Element:
    return ElementTree.fromstring(f'<MPD xmlns="{_NAMESPACE}"{attributes}>{body}</MPD>')


@pytest.mark.parametrize(
    ("presentation", "periods", "seconds"),
    [
        ("PT8S", "<Period/>", [8.0]),
        ("", "<Period/>", [0.0]),
        ("PT8S", '<Period duration="PT3S"/><Period/>', [3.0, 5.0]),
        ("PT8S", '<Period start="PT0S"/><Period start="PT2.5S"/>', [2.5, 5.5]),
        (
            "PT1M",
            '<Period/><Period start="PT20S" duration="PT10S"/><Period start="PT30S"/>',
            [20.0, 10.0, 30.0],
        ),
        ("", '<Period duration="PT3S"/><Period duration="PT4S"/>', [3.0, 4.0]),
        ("PT5S", '<Period start="PT9S"/><Period start="PT1S"/>', [0.0, 4.0]),
        ("nonsense", '<Period duration="-5"/>', [0.0]),
    ],
)
def test_period_durations(presentation: str, periods: str, seconds: list[float]) -> None:
    """A period lasts as long as it says, up to the next, or to the end of the presentation."""
    manifest = _manifest(periods, f' mediaPresentationDuration="{presentation}"' if presentation else "")
    assert dash_manifest.complete(manifest) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("timeline", "repetitions"),
    [
        ('<S t="0" d="2" r="-1"/>', ["4"]),
        ('<S d="2" r="1"/><S d="1" r="-1"/>', ["1", "5"]),
        ('<S t="0" d="2" r="-1"/><S t="6" d="2" r="1"/>', ["2", "1"]),
        ('<S t="0" d="3" r="-1"/>', ["3"]),
        ('<S t="0" d="0" r="-1"/>', ["0"]),
        ('<S t="0" d="2" r="3"/>', ["3"]),
        ('<S t="0" d="2" r="x"/>', ["x"]),
    ],
)
def test_open_repetitions(timeline: str, repetitions: list[str]) -> None:
    """A repetition without a number goes on to the next entry or to the end of the period."""
    template = (
        f'<SegmentTemplate timescale="1"><SegmentTimeline>{timeline}</SegmentTimeline></SegmentTemplate>'
    )
    manifest = _manifest(f'<Period duration="PT10S"><AdaptationSet>{template}</AdaptationSet></Period>')
    dash_manifest.complete(manifest)
    assert [entry.get("r") for entry in manifest.iter(f"{{{_NAMESPACE}}}S")] == repetitions


def test_repetitions_are_bounded() -> None:
    """A manifest cannot make a hundred million segments of one line."""
    template = '<SegmentTemplate timescale="1000000"><SegmentTimeline><S d="1" r="-1"/></SegmentTimeline>'
    manifest = _manifest(f'<Period duration="PT9999999S">{template}</SegmentTemplate></Period>')
    dash_manifest.complete(manifest)
    (entry,) = manifest.iter(f"{{{_NAMESPACE}}}S")
    assert int(entry.get("r") or 0) <= 100_000


@pytest.mark.parametrize(
    ("element", "url", "bounds"),
    [
        ('<Initialization range="0-799"/>', "", (0, 800)),
        ('<Initialization sourceURL="a.mp4" range="0-799"/>', "a.mp4", (0, 800)),
        ('<Initialization sourceURL="a.mp4"/>', "a.mp4", None),
        ('<SegmentURL mediaRange="800-1599"/>', "", (800, 1600)),
        ('<SegmentURL media="b.mp4" mediaRange="800-1599"/>', "b.mp4", (800, 1600)),
        ('<SegmentURL media="c.m4s"/>', "c.m4s", None),
        ('<SegmentURL media="d.m4s" mediaRange="nonsense"/>', "d.m4s#reelhaul-bytes=nonsense", None),
    ],
)
def test_byte_ranges(element: str, url: str, bounds: tuple[int, int] | None) -> None:
    """The range of a segment survives yt-dlp, which knows URLs only."""
    manifest = _manifest(f"<Period><SegmentList>{element}</SegmentList></Period>")
    dash_manifest.complete(manifest)
    (found,) = manifest[0][0]
    assert dash_manifest.split_range(found.get("sourceURL") or found.get("media") or "") == (url, bounds)


def _stream(number: int, **values: Any) -> dict[str, Any]:
    fragments = [{"path": f"{number}-init.mp4"}, {"path": f"{number}-1.m4s", "duration": 4.0}]
    stream = {"format_id": "v", "ext": "mp4", "vcodec": "avc1.64", "acodec": "none", "height": 360}
    return {
        **stream,
        "url": "http://site.test/m.mpd",
        "fragment_base_url": f"http://site.test/{number}/",
        "fragments": fragments,
        "protocol": "http_dash_segments",
        **values,
    }


def _period(*streams: dict[str, Any], seconds: float = 4.0) -> dict[str, Any]:
    return {"id": "p", "formats": list(streams), "subtitles": {}, "seconds": seconds, "missing_seconds": 0.0}


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([_stream(1)], 1),
        ([_stream(1, tbr=900.0), _stream(2, format_id="x")], 2),
        ([_stream(1, height=720), _stream(2, height=240)], 2),
        ([_stream(1, vcodec="hev1.1"), _stream(2, height=1080)], 2),
        ([_stream(1, vcodec="hev1.1")], None),
        ([_stream(1, vcodec="none", acodec="mp4a.40.2")], None),
        ([_stream(1, ext="webm")], None),
        ([_stream(1, has_drm=True)], None),
        ([_stream(1, language="de"), _stream(2, language="en")], 2),
        ([_stream(1, language="de")], None),
        ([], None),
    ],
)
def test_stream_of_the_next_period(candidates: list[dict[str, Any]], chosen: int | None) -> None:
    """A stream goes on with the most similar one of its codec and language in the next period, or not."""
    own = _stream(0, tbr=100.0, language="en")
    (stream,), _ = dash_manifest.join_periods([_period(own, seconds=60), _period(*candidates, seconds=30)])
    if chosen is None:
        assert "period 2" in stream[dash_manifest.REFUSAL]
        return
    urls = [fragment["url"] for fragment in stream["fragments"]]
    expected = [f"http://site.test/{n}/{n}-{part}" for n in (0, chosen) for part in ("init.mp4", "1.m4s")]
    assert urls == expected
    assert [fragment["period"] for fragment in stream["fragments"]] == [0, 0, 1, 1]
    assert stream[dash_manifest.DECLARED_SECONDS] == 90


def test_starts_of_representations() -> None:
    """The offset of the innermost level counts, whatever its timescale is from, and 0 is one."""
    period = ElementTree.fromstring(
        '<Period><SegmentTemplate presentationTimeOffset="90" timescale="10"/>'
        '<AdaptationSet><Representation id="a"/></AdaptationSet>'
        '<AdaptationSet><SegmentTemplate presentationTimeOffset="40"/><Representation id="b"/>'
        '<Representation id="c"><SegmentTemplate presentationTimeOffset="0"/></Representation>'
        '<Representation id="d"><SegmentTemplate timescale="20"/></Representation></AdaptationSet></Period>'
    )
    assert dash_manifest._read_starts(period) == {"a": 9.0, "b": 4.0, "c": 0.0, "d": 2.0}


def test_starts_of_many_representations() -> None:
    """Representations take linear time."""
    listed = "".join(f'<Representation id="{number}"/>' for number in range(10_000))
    period = ElementTree.fromstring(f"<Period><AdaptationSet>{listed}</AdaptationSet></Period>")
    started = time.process_time()
    assert len(dash_manifest._read_starts(period)) == 10_000
    assert time.process_time() - started < 5
