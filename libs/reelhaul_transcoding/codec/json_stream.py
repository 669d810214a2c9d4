"""JSON streams: finds the values in a body while it arrives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto

from reelhaul_transcoding.errors import FieldError, MessageTooLarge

# As in strict_json: deeper values would be rejected anyway, and must not be scanned bracket by bracket.
_MAX_DEPTH = 100

# Possessive, so that each byte is read once, and at most twice at the end of a piece.
_WHITESPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_UP_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_QUOTE, _COMMA, _OPEN_ARRAY, _CLOSE_ARRAY = b'",[]'
_OPENING = b"[{"


class _Expected(Enum):
    """What the text may contain next, outside a value."""

    FIRST_BYTE = auto()
    VALUE = auto()
    FIRST_ELEMENT = auto()
    ELEMENT = auto()
    COMMA = auto()
    NOTHING = auto()


class JsonSplitter:
    """Splits one JSON array, or JSON values that follow each other (NDJSON), into its values.

    The first byte tells which of the two it is. The values are not parsed; only their ends are
    found. What is kept of the text is the value that is not complete yet, of *max_bytes*.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._expected = _Expected.FIRST_BYTE
        self._buffer = bytearray()
        # Where scanning continues, and where the value begins that it is in.
        self._position = self._start = 0
        self._in_value = self._in_string = False
        self._depth = 0

    def split(self, piece: bytes, *, is_last: bool = False) -> Iterator[bytes]:
        """Yield the values that end in the next *piece* of the text. Raises TranscodingError."""
        self._buffer += piece
        while self._seek_value() and self._seek_end(is_last):
            yield self._take_value()
        self._check_size(len(self._buffer))
        kept_from = self._start if self._in_value else self._position
        del self._buffer[:kept_from]
        self._position -= kept_from
        self._start = 0
        if is_last and (self._in_value or self._expected in (_Expected.FIRST_ELEMENT, _Expected.ELEMENT)):
            raise FieldError("", "the body ends within a JSON value")
        if is_last and self._expected is _Expected.COMMA:
            raise FieldError("", "the body ends within a JSON array")

    def _take_value(self) -> bytes:
        self._check_size(self._position)
        self._in_value = False
        return bytes(self._buffer[self._start : self._position])

    def _check_size(self, end: int) -> None:
        if self._in_value and end - self._start > self._max_bytes:
            raise MessageTooLarge(self._max_bytes)

    def _seek_value(self) -> bool:
        """Move to the next value; return whether the text has reached one, or is in one."""
        while not self._in_value:
            self._position = self._match(_WHITESPACE)
            if self._position == len(self._buffer):
                return False
            self._in_value = not self._skip_delimiter(self._buffer[self._position])
            if self._in_value:
                self._start = self._position
            else:
                self._position += 1
        return True

    def _skip_delimiter(self, byte: int) -> bool:
        """Return whether *byte* is a delimiter of the array; False if it begins a value."""
        match self._expected, byte:
            case _Expected.FIRST_BYTE, _ if byte == _OPEN_ARRAY:
                self._expected = _Expected.FIRST_ELEMENT
            case ((_Expected.FIRST_ELEMENT | _Expected.COMMA), _) if byte == _CLOSE_ARRAY:
                self._expected = _Expected.NOTHING
            case _Expected.COMMA, _ if byte == _COMMA:
                self._expected = _Expected.ELEMENT
            case ((_Expected.COMMA | _Expected.NOTHING), _):
                raise FieldError("", f"the body is not JSON: unexpected {chr(byte)!r} after a value")
            case _:
                is_element = self._expected in (_Expected.FIRST_ELEMENT, _Expected.ELEMENT)
                self._expected = _Expected.COMMA if is_element else _Expected.VALUE
                return False
        return True

    def _seek_end(self, is_last: bool) -> bool:
        """Move to the end of the value; return whether the text has reached it."""
        if self._depth == 0 and not self._in_string and not self._open_value():
            self._position = self._match(_SCALAR)
            if self._position == self._start:
                raise FieldError("", f"the body is not JSON: unexpected {chr(self._buffer[self._start])!r}")
            return is_last or self._position < len(self._buffer)
        while self._depth or self._in_string:
            if self._in_string and not self._close_string():
                return False
            if self._depth and not self._pass_bracket():
                return False
        return True

    def _open_value(self) -> bool:
        """Enter the string, array or object at the start; return False for any other value."""
        byte = self._buffer[self._start]
        self._in_string = byte == _QUOTE
        self._depth = 1 if byte in _OPENING else 0
        if not self._in_string and not self._depth:
            return False
        self._position += 1
        return True

    def _close_string(self) -> bool:
        self._position = self._match(_STRING_REST)
        # The text may end before the quote, or in an escape.
        if not self._buffer.startswith(b'"', self._position):
            return False
        self._position += 1
        self._in_string = False
        return True

    def _pass_bracket(self) -> bool:
        """Move past the next bracket, or into a string that is not complete; return False without one."""
        self._position = self._match(_UP_TO_BRACKET)
        if self._position == len(self._buffer):
            return False
        byte = self._buffer[self._position]
        self._position += 1
        if byte == _QUOTE:
            self._in_string = True
        elif byte not in _OPENING:
            self._depth -= 1
        elif self._depth == _MAX_DEPTH:
            raise FieldError("", f"the JSON is nested deeper than {_MAX_DEPTH}")
        else:
            self._depth += 1
        return True

    def _match(self, pattern: re.Pattern[bytes]) -> int:
        match = pattern.match(self._buffer, self._position)
        return match.end() if match else self._position
