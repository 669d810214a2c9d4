"""SAMI, Microsoft's format of captions in several languages."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from reelhaul_fetcher.model.subtitle_formats.text import SPACES, unescape
from reelhaul_fetcher.model.timing.cues import Cue

_TAG = re.compile(r"(</?[A-Za-z][^<>]*>)")
_TAG_NAME = re.compile(r"</?\w{1,20}")
_START = re.compile(r"\bstart\s{0,9}=\s{0,9}[\"']?(\d{1,12})", re.IGNORECASE)
_CLASS = re.compile(r"\bclass\s{0,9}=\s{0,9}[\"']?([\w-]{1,64})", re.IGNORECASE)
_CLASS_LANGUAGE = re.compile(
    r"\.([\w-]{1,64})\s{0,9}\{[^{}]{0,500}?\blang\s{0,9}:\s{0,9}([A-Za-z-]{2,35})", re.IGNORECASE
)
_COMMENT_MARK = re.compile(r"<!--|-->")
# Characters in which the style sheet with the languages is expected.
_HEAD_CHARACTERS = 64 * 1024


def parse(text: str, language: str) -> list[Cue]:
    """Return the cues of *text* in *language* (BCP-47), or those in its first language if there are none."""
    reader = _Reader()
    for part in _TAG.split(_without_comments(text)):
        reader.read(part)
    reader.end_sync()
    languages = {
        match[1].lower(): match[2].lower() for match in _CLASS_LANGUAGE.finditer(text[:_HEAD_CHARACTERS])
    }
    primary = language.partition("-")[0].lower()
    classes = {name: cues for name, cues in reader.classes.items() if any(cue.text.strip() for cue in cues)}
    matching = [name for name in classes if primary and languages.get(name, "").startswith(primary)]
    for name in [*matching, *classes][:1]:
        return _with_ends(classes[name], reader.blank_times)
    return []


@dataclass(slots=True)
class _Reader:
    """Collects the texts of each class: the paragraphs in one language."""

    classes: dict[str, list[Cue]] = field(default_factory=dict)
    #: Times of SYNC elements without text, in seconds.
    blank_times: list[float] = field(default_factory=list)
    _time: float = math.nan
    _class: str = ""
    _texts: dict[str, list[str]] = field(default_factory=dict)
    _is_open: bool = False

    def read(self, part: str) -> None:
        """Parse *part*, a tag or the text between two tags."""
        found = _TAG_NAME.match(part) if part.endswith(">") else None
        name = found[0][1:].lower() if found else ""
        if name == "sync":
            self.end_sync()
            start = _START.search(part)
            self._time, self._class = int(start[1]) / 1000 if start else math.nan, ""
            self._is_open = True
        elif name in ("/body", "/sami"):
            self.end_sync()
        elif name == "p" and (class_name := _CLASS.search(part)):
            self._class = class_name[1].lower()
            self._texts.setdefault(self._class, [])
        elif name in ("br", "p"):
            self._add("\n")
        elif not name and (self._class or part.strip()):
            self._add(SPACES.sub(" ", part))

    def end_sync(self) -> None:
        """End the open SYNC element: its texts are shown until the next ones of their class."""
        for name, texts in self._texts.items():
            text = unescape("".join(texts))
            self.classes.setdefault(name, []).append(Cue(self._time, self._time, text))
        if self._is_open and not self._texts:
            self.blank_times.append(self._time)
        self._texts, self._is_open = {}, False

    def _add(self, text: str) -> None:
        if self._is_open:
            self._texts.setdefault(self._class, []).append(text)


def _with_ends(cues: list[Cue], blank_times: Iterable[float]) -> list[Cue]:
    """Return *cues*, each ending when the next one or a blank one begins."""
    times = sorted(time for time in (*blank_times, *(cue.start for cue in cues)) if math.isfinite(time))
    result = []
    for cue in cues:
        later = bisect_right(times, cue.start) if math.isfinite(cue.start) else len(times)
        result.append(replace(cue, end=times[later]) if later < len(times) else cue)
    return result


def _without_comments(text: str) -> str:
    parts: list[str] = []
    position, is_comment = 0, False
    for mark in _COMMENT_MARK.finditer(text):
        if (mark[0] == "<!--") != is_comment:
            parts += [] if is_comment else [text[position : mark.start()]]
            position, is_comment = mark.end(), not is_comment
    return "".join([*parts, *([] if is_comment else [text[position:]])])
