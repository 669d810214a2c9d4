"""TTML and its older form DFXP (https://www.w3.org/TR/ttml1)."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, field
from xml.parsers import expat

from reelhaul_fetcher.model.site_limits import number
from reelhaul_fetcher.model.subtitle_formats.text import REFERENCE, SPACES, SubtitlesUnreadable
from reelhaul_fetcher.model.timing.cues import Cue

_CLOCK_TIME = re.compile(r"(?:(\d{1,9}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,9})|:(\d{1,9})(?:\.\d{1,9})?)?")
_OFFSET_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(h|m|s|ms|f|t)?")
# Characters that XML does not allow.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DECLARATION = re.compile(r"<\?xml\s")
_BARE_AMPERSAND = re.compile(r"&(?!(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);)")


def parse(text: str, _: str) -> list[Cue]:
    """Return the cues of *text*: a document, or those of a stream's segments one after another.

    Raises SubtitlesUnreadable if one is not well-formed or declares entities.
    """
    text = _CONTROL.sub("", text)
    starts = [match.start() for match in _DECLARATION.finditer(text)] or [0]
    documents = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return [cue for document in documents for cue in _parse_document(document)]


def _parse_document(document: str) -> list[Cue]:
    try:
        return _Reader().parse(document)
    except expat.ExpatError:
        # Some sites do not escape ampersands, or use HTML entities.
        repaired = _BARE_AMPERSAND.sub("&amp;", REFERENCE.sub(_to_xml_reference, document))
    try:
        return _Reader().parse(repaired)
    except expat.ExpatError as error:
        raise SubtitlesUnreadable("this TTML file is not well-formed") from error


def _to_xml_reference(match: re.Match[str]) -> str:
    """Return the HTML character reference *match* as XML."""
    return html.escape(html.unescape(match[0]))


@dataclass(slots=True)
class _Element:
    """An open element: its time span in seconds, and the text of the cue that it is or belongs to."""

    name: str
    begin: float
    end: float
    keeps_space: bool
    text: list[str] | None
    is_cue: bool = False


@dataclass(slots=True)
class _Reader:
    """Reads one document."""

    _cues: list[Cue] = field(default_factory=list)
    _open: list[_Element] = field(default_factory=lambda: [_Element("", 0.0, math.inf, False, None)])
    _frame_rate: float = 30.0
    _tick_rate: float = 1.0

    def parse(self, document: str) -> list[Cue]:
        """Return the cues of *document*. Raises ExpatError."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_entities
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._add_text
        # The document is UTF-8 here, so that the encoding in its declaration does not apply.
        parser.Parse(document.encode("utf-8", "replace").decode(), True)
        return self._cues

    def _refuse_entities(
        self, _name: str, _system: str | None, _public: str | None, has_subset: bool
    ) -> None:
        if has_subset:
            raise SubtitlesUnreadable("this TTML file declares entities")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        # Without namespace prefixes, which some sites do not declare.
        name = tag.rpartition(":")[2]
        local = {key.rpartition(":")[2]: value for key, value in attributes.items()}
        parent = self._open[-1]
        if name == "tt":
            self._set_rates(local)
        elif name == "br" and parent.text is not None:
            parent.text.append("\n")
        begin, end, duration = (self._seconds(local.get(key)) for key in ("begin", "end", "dur"))
        start = parent.begin + (begin or 0.0)
        ends = [parent.end]
        ends += [] if end is None else [parent.begin + end]
        ends += [] if duration is None else [start + duration]
        keeps_space = local["space"] == "preserve" if "space" in local else parent.keeps_space
        # A span with times of its own is a cue within its paragraph.
        is_cue = name == "p" or (name == "span" and begin is not None)
        text = list[str]() if is_cue else parent.text
        self._open.append(_Element(name, start, min(ends), keeps_space, text, is_cue))

    def _end(self, _: str) -> None:
        element = self._open.pop()
        if element.is_cue and element.text:
            end = element.end if math.isfinite(element.end) else element.begin
            self._cues.append(Cue(element.begin, end, "".join(element.text)))

    def _add_text(self, text: str) -> None:
        element = self._open[-1]
        # The text of metadata is skipped.
        if element.text is not None and element.name in ("p", "span"):
            element.text.append(text if element.keeps_space else SPACES.sub(" ", text))

    def _set_rates(self, attributes: dict[str, str]) -> None:
        frame_rate = number(attributes.get("frameRate"), 1000.0)
        self._frame_rate = frame_rate or 30.0
        factors = [
            number(factor, 1e6)
            for factor in attributes.get("frameRateMultiplier", "").replace(":", " ").split()[:2]
        ]
        if len(factors) == 2 and factors[0] and factors[1]:
            self._frame_rate *= factors[0] / factors[1]
        ticks = number(attributes.get("tickRate"), 1e9)
        self._tick_rate = ticks or (self._frame_rate if frame_rate else 1.0)

    def _seconds(self, expression: str | None) -> float | None:
        """Return a time expression in seconds; None if it is missing or invalid."""
        expression = (expression or "").strip()
        if clock := _CLOCK_TIME.fullmatch(expression):
            hours, minutes, seconds = (int(clock[group] or 0) for group in (1, 2, 3))
            fraction = float(f"0.{clock[4]}") if clock[4] else int(clock[5] or 0) / self._frame_rate
            return hours * 3600 + minutes * 60 + seconds + fraction
        if offset := _OFFSET_TIME.fullmatch(expression):
            units = {"h": 3600.0, "m": 60.0, "ms": 0.001, "f": 1 / self._frame_rate, "t": 1 / self._tick_rate}
            return float(offset[1]) * units.get(offset[2], 1.0)
        return None
