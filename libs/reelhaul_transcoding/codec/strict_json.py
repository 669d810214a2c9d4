"""Strict JSON: parses RFC 8259 text, without the extensions of Python's parser."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

import orjson

from reelhaul_transcoding.errors import FieldError

#: The nesting limit of protobuf's own parsers.
_MAX_DEPTH = 100
# More than any request needs: each value costs up to twenty times its text to parse, and the parser
# does not let other threads run before its end.
_MAX_VALUES = 100_000
# Text that is larger is parsed so that other threads wait for little of the time.
_SMALL_BYTES = 64 * 1024

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHITESPACE = re.compile(r"[ \t\r\n]*")


def parse_json(text: bytes) -> Any:
    """Parse *text*; integers of 64 bits are exact. Raises FieldError.

    Also rejects what Python's parser accepts: duplicate names in an object, NaN and Infinity,
    lone surrogates, nesting deeper than 100, and more than 100,000 values.
    """
    try:
        return _parse_small(text) if len(text) <= _SMALL_BYTES else _parse_large(text)
    except RecursionError as error:
        raise _too_deep() from error
    except UnicodeDecodeError as error:
        raise FieldError("", "the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise FieldError("", f"the body is not JSON: {error.msg} at {position}") from error
    except ValueError as error:
        raise FieldError("", f"the body is not JSON: {error}") from error


def _parse_small(text: bytes) -> Any:
    """Parse *text* with Python's parser, which finds duplicate names in less time than ``_parse_large``."""
    decoded = text.decode()
    # As JSONDecoder.decode, but without its two matches for whitespace in compact text.
    value, end = _DECODER.raw_decode(decoded, _skip_whitespace(decoded, 0))
    if (end := _skip_whitespace(decoded, end)) < len(decoded):
        raise json.JSONDecodeError("Extra data", decoded, end)
    if text.count(b"{") + text.count(b"[") > _MAX_DEPTH:
        _count_members(value)
    if b"\\u" in text and _SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise FieldError("", "the body contains a lone surrogate") from error
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


def _parse_large(text: bytes) -> Any:
    """Parse *text* with orjson, which holds the GIL for a fifth of the time, in text that is checked before.

    Of members with one name orjson keeps the last: then the text has more members than the objects.
    """
    members = _count_members_in(text)
    value = orjson.loads(text)
    if _count_members(value) != members:
        raise ValueError("duplicate name in one object")
    return value


def _count_members_in(text: bytes) -> int:
    """Return the number of members of all objects in *text*: colons outside strings.

    Raises FieldError if *text* has more than 100,000 values: commas and opening brackets.
    """
    members = values = quotes = start = 0
    while start < len(text):
        end = min(start + _SMALL_BYTES, len(text))
        chunk = text[start:end]
        # An escape stays in one chunk.
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            end += 1
            chunk = text[start:end]
        if b"\\" in chunk:
            chunk = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = chunk.split(b'"')
        # Every second piece is a string.
        outside = b"".join(pieces[quotes % 2 :: 2])
        quotes += len(pieces) - 1
        members += outside.count(b":")
        values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        # Each value has two quotes at most, and two for its name.
        if values > _MAX_VALUES or quotes > 4 * _MAX_VALUES:
            raise FieldError("", f"the JSON has more than {_MAX_VALUES} values")
        start = end
    return members


def _count_members(value: Any) -> int:
    """Return the number of members of all objects in *value*. Raises FieldError if it is nested too deep."""
    members = 0
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        members += sum([len(container) for container in level if container.__class__ is dict])
        level = [
            item
            for container in level
            for item in (container.values() if container.__class__ is dict else container)
            if item.__class__ is dict or item.__class__ is list
        ]
        if not level:
            return members
    raise _too_deep()


def _too_deep() -> FieldError:
    return FieldError("", f"the JSON is nested deeper than {_MAX_DEPTH}")
