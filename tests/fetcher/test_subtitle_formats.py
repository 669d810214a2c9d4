"""Words survive: each format of subtitles that sites send becomes clean cues."""

from __future__ import annotations

import json
import struct
import time

import pytest

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model import subtitle_formats
from reelhaul_fetcher.model.subtitle_formats import mp4
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.timing import cues
from reelhaul_fetcher.model.timing.cues import Cue

Form = FormatSpec.Subtitles

Row = tuple[float, float, str]


def rows(text: str, language: str = "") -> list[Row]:
    """Return the cues of *text* as rows."""
    return [(cue.start, cue.end, cue.text) for cue in subtitle_formats.parse(text, language).cues]


VTT = """WEBVTT - a title
Kind: captions

NOTE a comment
of two lines

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start
Hello <b>you</b> &amp; me

3
00:00:05.000 --> 00:00:06.000
<v Fred>again</v>, <c.red>and <00:00:05.500>again</c>
"""


def test_written_formats() -> None:
    """WebVTT is rendered as SubRip, WebVTT, a transcript and JSON, and SubRip is parsed back."""
    parsed = subtitle_formats.parse(VTT).cues
    assert cues.render(parsed, Form.SRT) == (
        "1\n00:00:01,000 --> 00:00:02,500\nHello you & me\n\n"
        "2\n00:00:05,000 --> 00:00:06,000\nagain, and again\n\n"
    )
    assert "00:00:01.000 --> 00:00:02.500\nHello you &amp; me" in cues.render(parsed, Form.VTT)
    assert cues.render(parsed, Form.TXT) == "Hello you & me\n\nagain, and again\n"
    assert json.loads(cues.render(parsed, Form.JSON))[0] == {
        "start": 1.0,
        "end": 2.5,
        "text": "Hello you & me",
    }
    for form in (Form.SRT, Form.VTT):
        assert parsed == subtitle_formats.parse(cues.render(parsed, form)).cues


SUBRIP = "{0}\n00:00:01,000 --> 00:00:02,000\n{1}\n\n{2}\n00:00:03,000 --> 00:00:04,000\nnext\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<i>tilted</i> <font color='red'>red</font> <B>bold</B>", "tilted red bold"),
        ("{\\an8}above{\\i1}", "above"),
        ("I <3 you", "I <3 you"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("x<y>z", "x<y>z"),
        ("<laughs> ha", "<laughs> ha"),
        ("-> an arrow", "-> an arrow"),
        ("a &lt;b&gt; c &amp; d&#39;s", "a <b> c & d's"),
        ("R&D at ?a=1&copy=2", "R&D at ?a=1&copy=2"),
        ("one<br>two<BR/>three", "one\ntwo\nthree"),
        ("before\n\nafter a blank line", "before\nafter a blank line"),
        ("42", "42"),
        ("{a brace}", "{a brace}"),
        ("\ufeffmark\u2028line\x00\x1b\x0bend", "mark\nline\nend"),
    ],
)
def test_text_of_subrip(written: str, shown: str) -> None:
    """Tags are removed, and what only looks like a tag is text; nothing else is lost."""
    for numbers in (("1", "2"), ("", "")):
        text = SUBRIP.format(numbers[0], written, numbers[1])
        assert rows(text) == [(1.0, 2.0, shown), (3.0, 4.0, "next")]
        assert rows(text.replace("\n", "\r\n")) == rows(text)
    again = cues.render([Cue(1.0, 2.0, shown)], Form.VTT)
    assert rows(again) == [(1.0, 2.0, shown)]


@pytest.mark.parametrize(
    ("timing", "start", "end"),
    [
        ("00:00:01,500 --> 00:00:02,500", 1.5, 2.5),
        ("00:00:01.500-->00:00:02.500 X1:1 Y1:2", 1.5, 2.5),
        ("00:00:01 --> 00:00:02", 1.0, 2.0),
        ("0:0:1,5 --> 0:0:2,25", 1.5, 2.25),
        ("00:00:01:500 --> 00:00:02:050", 1.5, 2.05),
        ("01:01.000 --> 1:01:02.000", 61.0, 3662.0),
        ("-00:00:01,000 --> 00:00:02,000", 0.0, 2.0),
        ("00: 00: 01, 500 -> 00: 00: 02, 500", 1.5, 2.5),
        ("00:00:01,500 -->", 1.5, 6.5),
        ("00:00:01,500 --> never", 1.5, 6.5),
    ],
)
def test_times(timing: str, start: float, end: float) -> None:
    """Times are read as leniently as players read them."""
    assert rows(f"1\n{timing}\ntext\n") == [(start, end, "text")]


def test_subrip_without_blank_lines() -> None:
    """Cues without blank lines between them are separated by their numbers."""
    text = "1\n00:00:01,000 --> 00:00:02,000\n10\n2\n00:00:03,000 --> 00:00:04,000\nnext\n"
    assert rows(text) == [(1.0, 2.0, "10"), (3.0, 4.0, "next")]


TTML = """<?xml version="1.0" encoding="UTF-16"?>
<tt xmlns="{ns}" xmlns:tts="{ns}#styling" xmlns:ttp="{ns}#parameter" ttp:frameRate="25" ttp:tickRate="1000">
<head><metadata><ttm:title>Not shown</ttm:title></metadata></head><body><div>{body}</div></body></tt>"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<p begin="00:00:01.500" end="00:00:02.500">a</p>', [(1.5, 2.5, "a")]),
        ('<p begin="1.5s" dur="1000ms">a</p>', [(1.5, 2.5, "a")]),
        ('<p begin="00:00:01:05" end="00:00:02:00">a</p>', [(1.2, 2.0, "a")]),
        ('<p begin="1500t" end="50f">a</p>', [(1.5, 2.0, "a")]),
        ('<p begin="1" end="2">a<br/>\n  b <span tts:color="red">c</span></p>', [(1.0, 2.0, "a\nb c")]),
        ('<p begin="1s" end="2s">R&amp;D &lt;b&gt; <![CDATA[<i>]]></p>', [(1.0, 2.0, "R&D <b> <i>")]),
        ('<p begin="1s" end="2s">R&D&nbsp;?&eacute;</p>', [(1.0, 2.0, "R&D\xa0?é")]),
        ('<div begin="10s"><p begin="1s" end="2s">a</p></div>', [(11.0, 12.0, "a")]),
        (
            '<p><span begin="1s" end="2s">a</span> <span begin="2s" end="3s">b</span></p>',
            [(1.0, 2.0, "a"), (2.0, 3.0, "b")],
        ),
        ('<p begin="1s">a</p><p begin="3s">b</p>', [(1.0, 3.0, "a"), (3.0, 8.0, "b")]),
        ('<p begin="1s" end="2s" xml:space="preserve">a\nb</p>', [(1.0, 2.0, "a\nb")]),
        ('<p begin="1s" end="2s"><ttm:desc>no</ttm:desc>a</p>', [(1.0, 2.0, "a")]),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("namespace", ["http://www.w3.org/ns/ttml", "http://www.w3.org/2006/10/ttaf1"])
def test_ttml(body: str, expected: list[Row], namespace: str) -> None:
    """TTML and DFXP are read with each way of telling times, and with the mistakes that sites make."""
    assert rows(TTML.format(ns=namespace, body=body)) == expected


def test_ttml_in_mp4() -> None:
    """Segments of MP4 with TTML are read; MP4 with something else is refused with its name."""
    documents = [
        TTML.format(ns="x", body=f'<p begin="{n}s" end="{n + 1}s">part {n}</p>').partition("\n")[2]
        for n in (1, 2)
    ]
    boxes = b"\0\0\0\x18ftypiso6" + b"".join(b"\0\1moof\xff\xfemdat" + text.encode() for text in documents)
    content = mp4.to_text(boxes)
    assert rows(content.decode()) == [(1.0, 2.0, "part 1"), (2.0, 3.0, "part 2")]
    assert mp4.to_text(b"WEBVTT") == b"WEBVTT"


def box(kind: str, *payloads: bytes) -> bytes:
    """Return a box of MP4."""
    payload = b"".join(payloads)
    return struct.pack(">I", len(payload) + 8) + kind.encode() + payload


def webvtt_segment(time: int, *samples: tuple[int, str]) -> bytes:
    """Return a segment that begins at *time*, with the *samples*: duration in ms, text."""
    contents = [box("vttc", box("payl", text.encode())) if text else box("vtte") for _, text in samples]
    entries = b"".join(struct.pack(">II", s[0], len(c)) for s, c in zip(samples, contents, strict=True))
    run = box("trun", struct.pack(">IIi", 0x301, len(samples), 8), entries)
    times = box("tfhd", struct.pack(">II", 0, 1)) + box("tfdt", struct.pack(">IQ", 1 << 24, time))
    return box("moof", box("traf", times, run)) + box("mdat", *contents)


INIT = box("ftyp", b"iso6") + box(
    "moov", box("trak", box("mdia", box("mdhd", struct.pack(">6I", *[0] * 3, 1000, 0, 0))))
)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([webvtt_segment(0, (1000, ""), (1000, "Größe"), (500, ""))], [(1.0, 2.0, "Größe")]),
        ([webvtt_segment(0, (1000, "a"), (1000, "b"))], [(0.0, 1.0, "a"), (1.0, 2.0, "b")]),
        ([webvtt_segment(0, (1000, "a")), webvtt_segment(1000, (1000, "a"))], [(0.0, 2.0, "a")]),
        (
            [webvtt_segment(0, (1000, "a")), webvtt_segment(9000, (1000, "a"))],
            [(0.0, 1.0, "a"), (9.0, 10.0, "a")],
        ),
        ([webvtt_segment(0, (1000, "<i>a</i> &lt;b&gt;"))], [(0.0, 1.0, "a <b>")]),
        ([webvtt_segment(3_600_000, (1000, "a\nb"))], [(3600.0, 3601.0, "a\nb")]),
    ],
    ids=range(6),
)
def test_webvtt_in_mp4(segments: list[bytes], expected: list[Row]) -> None:
    """WebVTT in boxes of MP4 has the times of its samples."""
    assert rows(mp4.to_text(INIT + b"".join(segments)).decode()) == expected


@pytest.mark.parametrize(
    "content",
    [
        box("ftyp", b"iso6"),
        INIT + webvtt_segment(0, (1000, "")),
        INIT + webvtt_segment(0, (1000, "a"))[:60],
        INIT + b"\0\0\0\x01moof",
        INIT + b"\0\0\0\x02moof" * 9,
        box("moof", box("traf", box("trun", struct.pack(">II", 0, 2**32 - 1)))) + box("mdat", b"x" * 99),
    ],
    ids=range(6),
)
def test_mp4_without_subtitles(content: bytes) -> None:
    """MP4 without readable subtitles is refused, however it is damaged."""
    with pytest.raises(SubtitlesUnreadable, match="MP4"):
        mp4.to_text(content)


ASS = """[Script Info]
Title: A title
[V4+ Styles]
Style: Default,Arial,20
[Events]
Format: {columns}
Comment: 0,0:00:00.00,0:00:09.00,Default,,,,,,not shown
{line}
[Fonts]
Dialogue: 0,0:00:00.00,0:00:09.00,Default,,,,,,no dialogue
"""
COLUMNS = "Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text"


@pytest.mark.parametrize(
    ("columns", "line", "expected"),
    [
        (COLUMNS, "Dialogue: 0,0:00:01.50,0:00:02.50,D,,,,,,a, b", [(1.5, 2.5, "a, b")]),
        (
            COLUMNS,
            r"Dialogue: 0,0:00:01.50,0:00:02.50,D,,,,,,{\i1}a{\i0}\Nb\hc",
            [(1.5, 2.5, "a\nb\xa0c")],
        ),
        (COLUMNS, r"Dialogue: 0,0:00:01.50,0:00:02.50,D,,,,,,{\p1}m 0 0 l 9 9{\p0}a", [(1.5, 2.5, "a")]),
        (
            COLUMNS,
            r"Dialogue: 0,0:00:01.50,0:00:02.50,D,,,,,,{a note}a {\pos(1,2)}<b>",
            [(1.5, 2.5, "a <b>")],
        ),
        (
            COLUMNS,
            "Dialogue: 0,0:00:03.00,0:00:04.00,D,,,,,,later\n"
            "Dialogue: 0,0:00:01.00,0:00:02.00,D,,,,,,first\nDialogue: 1,0:00:01.00,0:00:02.00,D,,,,,,first",
            [(1.0, 2.0, "first"), (3.0, 4.0, "later")],
        ),
        (
            COLUMNS.replace("Layer", "Marked"),
            "Dialogue: Marked=0,0:00:01.50,0:00:02.50,D,,,,,,a",
            [(1.5, 2.5, "a")],
        ),
        ("Start, End, Text", "Dialogue: 0:00:01.50,0:00:02.50,a, b", [(1.5, 2.5, "a, b")]),
    ],
    ids=range(7),
)
def test_ass(columns: str, line: str, expected: list[Row]) -> None:
    """The dialogue of ASS and SSA is read, without styles, comments and drawings."""
    assert rows(ASS.format(columns=columns, line=line)) == expected


SAMI = """<SAMI><HEAD><TITLE>t</TITLE><STYLE TYPE="text/css"><!--
P { margin-left: 1pt; }
.ENCC { Name: English; lang: en-US; SAMIType: CC; }
.KRCC { Name: Korean; lang: ko-KR; }
--></STYLE></HEAD><BODY>
<SYNC Start=1000><P Class=ENCC>Hello<br>you &amp; <i>I</i>, I <3 it
<P Class=KRCC>안녕
<SYNC Start='2000'><P Class=ENCC>&nbsp;
<SYNC START="3000"><P CLASS="KRCC">또
<SYNC Start=4000><P Class=ENCC>last
</BODY></SAMI>"""


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (SAMI, "", [(1.0, 2.0, "Hello\nyou & I, I <3 it"), (4.0, 9.0, "last")]),
        (SAMI, "en", [(1.0, 2.0, "Hello\nyou & I, I <3 it"), (4.0, 9.0, "last")]),
        (SAMI, "ko", [(1.0, 3.0, "안녕"), (3.0, 8.0, "또")]),
        (SAMI, "fr", [(1.0, 2.0, "Hello\nyou & I, I <3 it"), (4.0, 9.0, "last")]),
        ("<sami><body><sync start=1000>a<sync start=2000></body></sami>", "", [(1.0, 2.0, "a")]),
        (
            "<SAMI><BODY><SYNC Start=1000><P Class=X>a</P></SYNC><SYNC Start=2000></SYNC>"
            "<SYNC Start=9000><P Class=X>b</P></SYNC></BODY></SAMI>",
            "",
            [(1.0, 2.0, "a"), (9.0, 14.0, "b")],
        ),
        (
            "<SAMI><BODY><SYNC Start=x><P>a<SYNC Start=2000><P>b<SYNC Start=3000><P>&nbsp;</BODY></SAMI>",
            "",
            [(2.0, 3.0, "b")],
        ),
    ],
    ids=range(7),
)
def test_sami(text: str, language: str, expected: list[Row]) -> None:
    """Each text of SAMI is shown until the next of its language; blank ones end it."""
    assert rows(text, language) == expected


def event(start: int, text: str, **fields: int) -> dict[str, object]:
    """Return an event of json3."""
    return {"tStartMs": start, "segs": [{"utf8": text}], **fields}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(1000, "a", dDurationMs=500)], [(1.0, 1.5, "a")]),
        (
            [event(1000, "a", dDurationMs=500), event(1500, "\n", aAppend=1)],
            [(1.0, 1.5, "a")],
        ),
        (
            [event(100, "[Music]"), event(2000, "a", dDurationMs=500)],
            [(0.1, 2.0, "[Music]"), (2.0, 2.5, "a")],
        ),
        ([event(1000, "a", dDurationMs=500), event(9000, "last")], [(1.0, 1.5, "a"), (9.0, 14.0, "last")]),
        ([event(1000, "a", dDurationMs=0), event(1000, "b"), event(3000, "c")], None),
        ([{"tStartMs": 1, "segs": None}, 5, None, event(1000, "a", dDurationMs=500)], [(1.0, 1.5, "a")]),
    ],
    ids=range(6),
)
def test_json3(events: list[object], expected: list[Row] | None) -> None:
    """YouTube's json3 is read, without the events that only append a line break; every cue lasts."""
    found = rows(json.dumps({"events": events}))
    assert all(start < end for start, end, _ in found)
    assert expected is None or found == expected


def segment(mpegts: int, *cue_rows: Row) -> str:
    """Return a WebVTT segment of HLS."""
    header = f"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{mpegts}\n\n"
    return header + cues.render([Cue(*row) for row in cue_rows], Form.VTT).removeprefix("WEBVTT\n\n")


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([segment(0, (1, 2, "a")), segment(0, (7, 8, "b"))], [(1.0, 2.0, "a"), (7.0, 8.0, "b")]),
        (
            [segment(900_000, (1, 2, "a")), segment(1_440_000, (1, 2, "b"))],
            [(1.0, 2.0, "a"), (7.0, 8.0, "b")],
        ),
        ([segment(900_000, (1, 2, "a"))], [(1.0, 2.0, "a")]),
        ([segment(0, (5, 6, "a")), segment(0, (6, 8, "a"))], [(5.0, 8.0, "a")]),
        (
            [segment(0, (5, 8, "a")), segment(0, (5, 8, "a"), (8.5, 9, "b"))],
            [(5.0, 8.0, "a"), (8.5, 9.0, "b")],
        ),
        (
            [segment(2**33 - 90_000, (0.2, 0.5, "a")), segment(0, (0.2, 0.5, "b"))],
            [(0.2, 0.5, "a"), (1.2, 1.5, "b")],
        ),
        ([segment(0, (1, 2, "a")).rstrip("\n"), segment(0, (7, 8, "b"))], [(1.0, 2.0, "a"), (7.0, 8.0, "b")]),
        (["WEBVTT\n", segment(0, (1, 2, "a")), "WEBVTT"], [(1.0, 2.0, "a")]),
    ],
    ids=range(8),
)
def test_segments(segments: list[str], expected: list[Row]) -> None:
    """Segments of an HLS playlist are one track on one clock; a cue that crosses their ends is one cue."""
    assert rows("".join(segments)) == expected
    assert rows("\ufeff" + "\ufeff".join(segments).replace("\n", "\r\n")) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no known format"),
        ("nothing here", "no known format"),
        ("<!doctype html><html>404</html>", "a page"),
        ("WEBVTT\n", "WebVTT"),
        ("{}", "json3"),
        ("[]", "no known format"),
        ("<tt><body><p begin='1s'>a</body></tt>", "not well-formed"),
        ('<!DOCTYPE tt [<!ENTITY a "aaaa">]><tt><body><p begin="1s">&a;</p></body></tt>', "entities"),
        ("[Script Info]\n", "ASS"),
        ("<SAMI></SAMI>", "SAMI"),
        ("1\n00:00:01,000 --> 00:00:02,000\n<i></i>\n", "SubRip"),
    ],
)
def test_unreadable(text: str, problem: str) -> None:
    """What has no cues is refused with what it is instead."""
    with pytest.raises(SubtitlesUnreadable, match=problem):
        subtitle_formats.parse(text)


def test_samples_that_are_not_there() -> None:
    """Runs of a few bytes that claim any number of samples cost no more than a long track."""
    run = struct.pack(">I4sII", 16, b"trun", 0, 0xFFFFFFFF)
    boxes = run * 2000
    for kind in (b"traf", b"moof"):
        boxes = struct.pack(">I4s", 8 + len(boxes), kind) + boxes
    started = time.process_time()
    with pytest.raises(SubtitlesUnreadable):
        mp4.to_text(boxes + struct.pack(">I4s", 8, b"mdat"))
    assert time.process_time() - started < 15
