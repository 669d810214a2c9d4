"""What is said in the videos, and ``/api/timedtext``: subtitles in each form that YouTube gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from tests.sites.youtube.catalogue import Video

#: Code and name of the languages that captions can be translated to.
LANGUAGES = {"en": "English", "de": "German", "fr": "French", "ja": "Japanese", "ar": "Arabic"}
_NUMBERS = [
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
_SHORT = ("a picture that moves", "and a tone beside it", "that is all")


@dataclass(frozen=True)
class Line:
    """One spoken line, in seconds."""

    start: float
    end: float
    text: str


def lines(video: Video) -> list[Line]:
    """What is said in *video*: twenty lines in five paragraphs in a talk, three lines elsewhere."""
    if video.programme.seconds < 60:
        return [Line(0.5 + 2 * i, 2 + 2 * i, text) for i, text in enumerate(_SHORT)]
    # Four lines of two seconds, then a silence of four: a paragraph ends there.
    starts = [12.0 * (i // 4) + 2.0 * (i % 4) for i in range(20)]
    return [Line(at, at + 2, f"this is line {word}") for at, word in zip(starts, _NUMBERS, strict=True)]


def timedtext(video: Video, query: dict[str, str]) -> tuple[str, str] | None:
    """Text and MIME type of the track that *query* names; None where there is no such."""
    language, automatic = query.get("lang", ""), query.get("kind") == "asr"
    if language not in ((video.spoken,) if automatic else video.subtitles):
        return None
    target = query.get("tlang", language)
    if target not in LANGUAGES or query.get("fmt", "srv1") not in _WRITERS:
        return None
    write, mime = _WRITERS[query.get("fmt", "srv1")]
    # Translated captions have lost their words' times, and with them the rolling.
    return write(_said(video, target), automatic and target == language), mime


def said(text: str, language: str) -> str:
    """What the stand-in takes for *text* in *language*."""
    return text if language == "en" else f"[{language}] {text}"


def _said(video: Video, language: str) -> list[Line]:
    return [Line(line.start, line.end, said(line.text, language)) for line in lines(video)]


def _json3(spoken: Sequence[Line], rolling: bool) -> str:
    """Rolling captions tell each word's time, and append a line break between lines."""
    events: list[dict[str, object]] = []
    for number, line in enumerate(spoken):
        timed = {"tStartMs": _ms(line.start), "dDurationMs": _ms(line.end - line.start)}
        if not rolling:
            events.append({**timed, "segs": [{"utf8": line.text}]})
            continue
        if number:
            events.append({**timed, "aAppend": 1, "wWinId": 1, "segs": [{"utf8": "\n"}]})
        words = [
            {"utf8": f"{' ' if place else ''}{word}", "tOffsetMs": 200 * place, "acAsrConf": 0}
            for place, word in enumerate(line.text.split())
        ]
        events.append({**timed, "wWinId": 1, "segs": words})
    return json.dumps({"wireMagic": "pb3", "events": events})


def _srv1(spoken: Sequence[Line], _: bool) -> str:
    rows = (
        f'<text start="{line.start:g}" dur="{line.end - line.start:g}">{escape(line.text)}</text>'
        for line in spoken
    )
    return f'<?xml version="1.0" encoding="utf-8" ?><transcript>{"".join(rows)}</transcript>'


def _srv2(spoken: Sequence[Line], _: bool) -> str:
    rows = (
        f'<text t="{_ms(line.start)}" d="{_ms(line.end - line.start)}">{escape(line.text)}</text>'
        for line in spoken
    )
    return f'<?xml version="1.0" encoding="utf-8" ?><timedtext>{"".join(rows)}</timedtext>'


def _srv3(spoken: Sequence[Line], _: bool) -> str:
    rows = (
        f'<p t="{_ms(line.start)}" d="{_ms(line.end - line.start)}">{escape(line.text)}</p>'
        for line in spoken
    )
    head = '<?xml version="1.0" encoding="utf-8" ?><timedtext format="3">'
    return f"{head}<body>{''.join(rows)}</body></timedtext>"


def _ttml(spoken: Sequence[Line], _: bool) -> str:
    rows = (
        f'<p begin="{_clock(line.start)}" end="{_clock(line.end)}">{escape(line.text)}</p>' for line in spoken
    )
    head = '<?xml version="1.0" encoding="utf-8" ?><tt xmlns="http://www.w3.org/ns/ttml">'
    return f"{head}<body><div>{''.join(rows)}</div></body></tt>"


def _srt(spoken: Sequence[Line], _: bool) -> str:
    cues = (
        f"{number}\n{_clock(line.start, ',')} --> {_clock(line.end, ',')}\n{line.text}\n"
        for number, line in enumerate(spoken, start=1)
    )
    return "\n".join(cues)


def _vtt(spoken: Sequence[Line], rolling: bool) -> str:
    cues = _rolled(spoken) if rolling else [_cue(line.start, line.end, line.text) for line in spoken]
    return "WEBVTT\nKind: captions\n\n" + "\n".join(cues)


def _rolled(spoken: Sequence[Line]) -> list[str]:
    """Each line twice: typed below the one before it, then still for a moment, as YouTube rolls them."""
    cues, above = [], " "
    for line in spoken:
        first, *others = line.text.split()
        times = (line.start + 0.2 * place for place, _ in enumerate(others, start=1))
        typed = "".join(f"<{_clock(at)}><c> {word}</c>" for at, word in zip(times, others, strict=True))
        cues.append(_cue(line.start, line.end - 0.01, f"{above}\n{first}{typed}", " align:start position:0%"))
        cues.append(_cue(line.end - 0.01, line.end, f"{line.text}\n ", " align:start position:0%"))
        above = line.text
    return cues


def _cue(start: float, end: float, text: str, settings: str = "") -> str:
    return f"{_clock(start)} --> {_clock(end)}{settings}\n{text}\n"


def _clock(seconds: float, point: str = ".") -> str:
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
