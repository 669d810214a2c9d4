"""Captions of the videos, and ``/api/timedtext``: captions in each format that YouTube offers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from tests.sites.youtube.catalogue import Video

#: Code and name of each language that captions can be translated to.
LANGUAGES = {"en": "English", "de": "German", "fr": "French", "ja": "Japanese", "ar": "Arabic"}
_NUMBERS = [
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
_SHORT = ("a picture that moves", "and a tone beside it", "that is all")


@dataclass(frozen=True)
class Line:
    """A caption line; times in seconds."""

    start: float
    end: float
    text: str


def english_lines(video: Video) -> list[Line]:
    """Return the English lines of *video*: twenty in five paragraphs in a talk, otherwise three."""
    if video.content.seconds < 60:
        return [Line(0.5 + 2 * i, 2 + 2 * i, text) for i, text in enumerate(_SHORT)]
    # Four lines of two seconds, then four seconds of silence, which end a paragraph.
    starts = [12.0 * (i // 4) + 2.0 * (i % 4) for i in range(20)]
    return [
        Line(start, start + 2, f"this is line {word}") for start, word in zip(starts, _NUMBERS, strict=True)
    ]


def timedtext(video: Video, query: dict[str, str]) -> tuple[str, str] | None:
    """Return text and MIME type of the track that *query* requests; None if there is no such track."""
    language, automatic = query.get("lang", ""), query.get("kind") == "asr"
    if language not in ((video.asr_language,) if automatic else video.subtitles):
        return None
    target = query.get("tlang", language)
    if target not in LANGUAGES or query.get("fmt", "srv1") not in _WRITERS:
        return None
    write, mime = _WRITERS[query.get("fmt", "srv1")]
    # Translated captions have no word times, so that they do not roll.
    return write(_translated_lines(video, target), automatic and target == language), mime


def translate(text: str, language: str) -> str:
    """Return the stand-in's translation of the English *text* into *language*."""
    return text if language == "en" else f"[{language}] {text}"


def _translated_lines(video: Video, language: str) -> list[Line]:
    return [Line(line.start, line.end, translate(line.text, language)) for line in english_lines(video)]


def _json3(lines: Sequence[Line], rolling: bool) -> str:
    """Return JSON captions; rolling ones have word times and append a line break between lines."""
    events: list[dict[str, object]] = []
    for number, line in enumerate(lines):
        times = {"tStartMs": _ms(line.start), "dDurationMs": _ms(line.end - line.start)}
        if not rolling:
            events.append({**times, "segs": [{"utf8": line.text}]})
            continue
        if number:
            events.append({**times, "aAppend": 1, "wWinId": 1, "segs": [{"utf8": "\n"}]})
        words = [
            {"utf8": f"{' ' if index else ''}{word}", "tOffsetMs": 200 * index, "acAsrConf": 0}
            for index, word in enumerate(line.text.split())
        ]
        events.append({**times, "wWinId": 1, "segs": words})
    return json.dumps({"wireMagic": "pb3", "events": events})


def _srv1(lines: Sequence[Line], _: bool) -> str:
    rows = (
        f'<text start="{line.start:g}" dur="{line.end - line.start:g}">{escape(line.text)}</text>'
        for line in lines
    )
    return f'<?xml version="1.0" encoding="utf-8" ?><transcript>{"".join(rows)}</transcript>'


def _srv2(lines: Sequence[Line], _: bool) -> str:
    rows = (
        f'<text t="{_ms(line.start)}" d="{_ms(line.end - line.start)}">{escape(line.text)}</text>'
        for line in lines
    )
    return f'<?xml version="1.0" encoding="utf-8" ?><timedtext>{"".join(rows)}</timedtext>'


def _srv3(lines: Sequence[Line], _: bool) -> str:
    rows = (
        f'<p t="{_ms(line.start)}" d="{_ms(line.end - line.start)}">{escape(line.text)}</p>' for line in lines
    )
    head = '<?xml version="1.0" encoding="utf-8" ?><timedtext format="3">'
    return f"{head}<body>{''.join(rows)}</body></timedtext>"


def _ttml(lines: Sequence[Line], _: bool) -> str:
    rows = (
        f'<p begin="{_timestamp(line.start)}" end="{_timestamp(line.end)}">{escape(line.text)}</p>'
        for line in lines
    )
    head = '<?xml version="1.0" encoding="utf-8" ?><tt xmlns="http://www.w3.org/ns/ttml">'
    return f"{head}<body><div>{''.join(rows)}</div></body></tt>"


def _srt(lines: Sequence[Line], _: bool) -> str:
    cues = (
        f"{number}\n{_timestamp(line.start, ',')} --> {_timestamp(line.end, ',')}\n{line.text}\n"
        for number, line in enumerate(lines, start=1)
    )
    return "\n".join(cues)


def _vtt(lines: Sequence[Line], rolling: bool) -> str:
    cues = _rolling_cues(lines) if rolling else [_cue(line.start, line.end, line.text) for line in lines]
    return "WEBVTT\nKind: captions\n\n" + "\n".join(cues)


def _rolling_cues(lines: Sequence[Line]) -> list[str]:
    """Return two cues for each line, as YouTube rolls them: typed below the previous line, then at rest."""
    cues, previous = [], " "
    for line in lines:
        first, *others = line.text.split()
        times = (line.start + 0.2 * index for index, _ in enumerate(others, start=1))
        timed_words = "".join(
            f"<{_timestamp(time)}><c> {word}</c>" for time, word in zip(times, others, strict=True)
        )
        cues.append(
            _cue(line.start, line.end - 0.01, f"{previous}\n{first}{timed_words}", " align:start position:0%")
        )
        cues.append(_cue(line.end - 0.01, line.end, f"{line.text}\n ", " align:start position:0%"))
        previous = line.text
    return cues


def _cue(start: float, end: float, text: str, settings: str = "") -> str:
    return f"{_timestamp(start)} --> {_timestamp(end)}{settings}\n{text}\n"


def _timestamp(seconds: float, point: str = ".") -> str:
    return f"00:{int(seconds) // 60:02}:{seconds % 60:06.3f}".replace(".", point)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_WRITERS: dict[str, tuple[Callable[[Sequence[Line], bool], str], str]] = {
    "json3": (_json3, "application/json; charset=UTF-8"),
    "srv1": (_srv1, "text/xml; charset=UTF-8"),
    "srv2": (_srv2, "text/xml; charset=UTF-8"),
    "srv3": (_srv3, "text/xml; charset=UTF-8"),
    "ttml": (_ttml, "text/xml; charset=UTF-8"),
    "srt": (_srt, "text/plain; charset=UTF-8"),
    "vtt": (_vtt, "text/vtt; charset=UTF-8"),
}
