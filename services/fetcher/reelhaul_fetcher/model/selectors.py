"""yt-dlp's format language, the part that names streams by what they are: read, and done.

``/`` first that is offered, ``+`` one beside the other, ``( )`` groups, ``[ ]`` conditions;
``best``, ``worst``, ``b``, ``w`` with ``v`` or ``a`` (alone) and ``*`` (at least), and a number
of a place; else an extension or a format id. No ``,``, no ``~=``, no ``all``, no ``mergeall``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from reelhaul.type.v1.media_pb2 import Format

Streams = list[Format]
#: Of the streams offered (worst first): those to take, or none.
Select = Callable[[Streams], Streams]
_Rule = Callable[[Format], bool]

_TOKEN = re.compile(r"\s*([/+()]|\[[^\[\]]*\]|[A-Za-z0-9_.*-]+)\s*")
_NAMED = re.compile(
    r"(?P<end>b|w|best|worst)(?P<kind>video|audio|v|a)?(?P<loose>\*)?(?:\.(?P<place>[1-9]\d?))?"
)
_CONDITION = re.compile(
    r"\[\s*(?P<key>[a-z_]+)\s*(?P<negated>!)?(?P<operator>=|<=|>=|<|>|\^=|\$=|\*=)(?P<maybe>\s*\?)?\s*"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s\"']+)\s*\]"
)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)(i?)[bB]?")
_EXTENSIONS = frozenset({"mp4", "webm", "m4a", "flv", "3gp", "mp3", "ogg", "aac", "wav", "mkv", "mov"})
_DEPTH = 20

_NUMBERS: dict[str, Callable[[Format], float]] = {
    "width": lambda s: s.width,
    "height": lambda s: s.height,
    "fps": lambda s: s.frame_rate,
    "tbr": lambda s: s.bitrate_bps / 1000,
    "filesize": lambda s: 0 if s.size_estimated else s.size_bytes,
    "filesize_approx": lambda s: s.size_bytes,
    "audio_channels": lambda s: s.audio_channels,
}
_PROTOCOLS = {"hls": "m3u8_native", "dash": "http_dash_segments"}
_TEXTS: dict[str, Callable[[Format], str]] = {
    "ext": lambda s: s.container,
    "vcodec": lambda s: s.video_codec or "none",
    "acodec": lambda s: s.audio_codec or "none",
    "format_id": lambda s: s.format_id,
    "language": lambda s: s.language_code,
    "protocol": lambda s: _PROTOCOLS.get(s.protocol, s.protocol),
    "dynamic_range": lambda s: s.dynamic_range or "SDR",
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_RELATE: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "^=": str.startswith,
    "$=": str.endswith,
    "*=": operator.contains,
}


class NotUnderstood(ValueError):
    """The selector is no part of the language that is allowed; the text says what is wrong."""


def parsed(selector: str) -> Select:
    """What *selector* selects. Raises NotUnderstood."""
    tokens, place = [], 0
    while place < len(selector.rstrip()):
        found = _TOKEN.match(selector, place)
        if found is None:
            raise NotUnderstood(f"{selector[place : place + 20]!r} is not understood")
        tokens.append(found[1])
        place = found.end()
    reading = _Reading(tokens)
    select = reading.either(0)
    if reading.next is not None:
        raise NotUnderstood(f"{reading.next!r} is not expected there")
    return select


class _Reading:
    """A walk over tokens, from the loosest binding to the tightest."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens, self._place = tokens, 0

    @property
    def next(self) -> str | None:
        """The token at hand; None at the end."""
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def either(self, depth: int) -> Select:
        """``a/b``: the first that selects anything."""
        choices = [self._both(depth)]
        while self._take("/"):
            choices.append(self._both(depth))
        return lambda streams: next((taken for one in choices if (taken := one(streams))), [])

    def _both(self, depth: int) -> Select:
        """``a+b``: one picture and one sound, each from its own place."""
        parts = [self._one(depth)]
        while self._take("+"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else lambda streams: _merged([one(streams) for one in parts])

    def _one(self, depth: int) -> Select:
        if depth > _DEPTH:
            raise NotUnderstood("the brackets are too deep")
        word = self.next
        if word is None or word in "/+)":
            raise NotUnderstood("a stream is missing")
        if self._take("("):
            select = self.either(depth + 1)
            if not self._take(")"):
                raise NotUnderstood("a bracket is not closed")
        elif word.startswith("["):
            select = _named("best")
        else:
            self._place += 1
            select = _named(word)
        rules: list[_Rule] = []
        while (word := self.next) is not None and word.startswith("["):
            rules.append(_rule(word))
            self._place += 1
        return lambda streams: select([s for s in streams if all(rule(s) for rule in rules)])

    def _take(self, token: str) -> bool:
        taken = self.next == token
        self._place += taken
        return taken


def _named(word: str) -> Select:
    """The streams that *word* names: by their rank and kind, by extension, or by id."""
    found = _NAMED.fullmatch(word)
    if (found is None and re.search(r"[*]", word)) or word in ("all", "mergeall"):
        raise NotUnderstood(f"{word!r} is not understood")
    if found is None and word in _EXTENSIONS:
        return lambda streams: [s for s in streams if s.container == word and _is_whole(s)][-1:]
    if found is None:
        return lambda streams: [s for s in streams if s.format_id == word][-1:]
    best, place = found["end"].startswith("b"), int(found["place"] or 1) - 1
    fits = _kind(found["kind"] or "", loose=bool(found["loose"]))

    def select(streams: Streams) -> Streams:
        fitting = [s for s in streams if fits(s)]
        ranked = fitting[::-1] if best else fitting
        return ranked[place : place + 1]

    return select


def _kind(kind: str, *, loose: bool) -> _Rule:
    if kind.startswith("v"):
        return lambda s: bool(s.video_codec) and (loose or not s.audio_codec)
    if kind.startswith("a"):
        return lambda s: bool(s.audio_codec) and (loose or not s.video_codec)
    return (lambda s: True) if loose else _is_whole


def _is_whole(stream: Format) -> bool:
    return bool(stream.video_codec and stream.audio_codec)


def _merged(parts: list[Streams]) -> Streams:
    """One stream of each part, the picture first; none where a part has none.

    As with yt-dlp, a stream that brings what another brought before is left out.
    """
    if not all(parts):
        return []
    taken: Streams = []
    for stream in (stream for part in parts for stream in part):
        seen = stream.video_codec and any(s.video_codec for s in taken)
        heard = stream.audio_codec and any(s.audio_codec for s in taken)
        if not seen and not heard:
            taken.append(stream)
    return sorted(taken, key=lambda s: not s.video_codec)


def _rule(text: str) -> _Rule:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise NotUnderstood(f"{text!r} is no condition")
    key, sign, maybe, negated = found["key"], found["operator"], bool(found["maybe"]), bool(found["negated"])
    value = found["value"].strip("\"'")
    if key in _NUMBERS and sign in _COMPARE:
        tell, compare, number = _NUMBERS[key], _COMPARE[sign], _number(value)
        # What a site does not say is zero here.
        return lambda s: (compare(tell(s), number) != negated) if tell(s) else maybe
    if key in _TEXTS and sign in _RELATE:
        read, relate = _TEXTS[key], _RELATE[sign]
        return lambda s: (relate(read(s), value) != negated) if read(s) else maybe
    raise NotUnderstood(f"{text!r} is no condition")


def _number(text: str) -> float:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise NotUnderstood(f"{text!r} is no number")
    base = 1024.0 if found[3] else 1000.0
    return float(found[1]) * float(base ** " kmg".index(found[2].lower() or " "))
