"""Strict JSON: parses RFC 8259 text, without the extensions of Python's parser."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from reelhaul_transcoding.errors import FieldError

#: The nesting limit of protobuf's own parsers.
_MAX_DEPTH = 100
# More than any request needs: each value costs up to twenty times its text to parse, and the parser
# does not let other threads run before its end.
_MAX_VALUES = 100_000
# What is checked at a time, so that other threads run in between.
_CHUNK_BYTES = 64 * 1024

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89abAB]")
_WHITESPACE = re.compile(r"[ \t\r\n]*")


def parse_json(text: bytes) -> Any:
    """Parse *text*; integers are exact. Raises FieldError.

    Also rejects what Python's parser accepts: duplicate names in an object, NaN and Infinity,
    lone surrogates, nesting deeper than 100, and more than 100,000 values.
    """
    _check_size(text)
    try:
        value = _parse_one(text.decode())
    except RecursionError as error:
        raise _too_deep() from error
    except UnicodeDecodeError as error:
        raise FieldError("", "the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise FieldError("", f"the body is not JSON: {error.msg} at {position}") from error
    except ValueError as error:
        raise FieldError("", f"the body is not JSON: {error}") from error
    _check_value(text, value)
    return value


def _parse_one(text: str) -> Any:
    # As JSONDecoder.decode, but without its two matches for whitespace in compact text.
    value, end = _DECODER.raw_decode(text, _skip_whitespace(text, 0))
    if (end := _skip_whitespace(text, end)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _skip_whitespace(text: str, position: int) -> int:
    if position < len(text) and text[position] > " ":
        return position
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        duplicate = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"duplicate name {json.dumps(duplicate[:80])} in one object")
    return result


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number; send it as a string")


_DECODER = json.JSONDecoder(object_pairs_hook=_reject_duplicates, parse_constant=_reject_constant)


def _check_size(text: bytes) -> None:
    """Raise FieldError if *text* has more than 100,000 values; opening brackets and commas are counted."""
    if len(text) > _MAX_VALUES and _count_separators(text) > _MAX_VALUES and _has_too_many_values(text):
        raise FieldError("", f"the JSON has more than {_MAX_VALUES} values")


def _count_separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _has_too_many_values(text: bytes) -> bool:
    """Return whether *text* exceeds the limit; the characters of strings do not count."""
    separators = quotes = start = 0
    while start < len(text) and separators <= _MAX_VALUES:
        end = min(start + _CHUNK_BYTES, len(text))
        chunk = text[start:end]
        # An escape stays in one chunk.
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            end += 1
            chunk = text[start:end]
        if b"\\" in chunk:
            chunk = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = chunk.split(b'"')
        # Every second piece is a string.
        separators += _count_separators(b"".join(pieces[quotes % 2 :: 2]))
        quotes += len(pieces) - 1
        # Each value has at most one name.
        if quotes > 4 * _MAX_VALUES:
            return True
        start = end
    return separators > _MAX_VALUES


def _check_value(text: bytes, value: Any) -> None:
    """Raise FieldError if the *value* of *text* is nested too deep, or has lone surrogates."""
    if len(text) > _MAX_DEPTH and text.count(b"{") + text.count(b"[") > _MAX_DEPTH:
        _check_depth(value)
    if b"\\u" in text and _SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise FieldError("", "the body contains a lone surrogate") from error


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if container.__class__ is dict else container)
            if item.__class__ is dict or item.__class__ is list
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> FieldError:
    return FieldError("", f"the JSON is nested deeper than {_MAX_DEPTH}")
