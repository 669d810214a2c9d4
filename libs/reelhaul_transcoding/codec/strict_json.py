"""Strict JSON: parses RFC 8259 text, without the extensions of Python's parser."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import accumulate
from typing import Any, NoReturn

from reelhaul_transcoding.errors import FieldError

#: The nesting limit of protobuf's own parsers.
_MAX_DEPTH = 100
# More objects and arrays than any request needs: each costs twenty times its text to parse.
_MAX_CONTAINERS = 100_000

# Possessive, and matches an unterminated string up to the end of the text: each byte is read once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# An opening bracket adds 1 to the depth, and a closing one adds -1 (0xFF as a signed byte).
_DEPTH_CHANGES = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def parse_json(text: bytes) -> Any:
    """Parse *text*; integers are exact. Raises FieldError.

    Also rejects what Python's parser accepts: duplicate names in an object, NaN and Infinity,
    lone surrogates, nesting deeper than 100, and more than 100,000 objects and arrays.
    """
    _check_depth(text)
    try:
        value = _DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        raise FieldError("", "the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise FieldError("", f"the body is not JSON: {error.msg} at {position}") from error
    except ValueError as error:
        raise FieldError("", f"the body is not JSON: {error}") from error
    _check_surrogates(text, value)
    return value


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


def _check_depth(text: bytes) -> None:
    """Raise FieldError if *text* is nested too deep, or has too many objects and arrays.

    It does so before *text* is parsed, since the parser is recursive.
    """
    if text.count(b"{") + text.count(b"[") <= _MAX_DEPTH:
        return
    changes = _STRING.sub(b"", text).translate(_DEPTH_CHANGES, _NOT_BRACKETS)
    if max(accumulate(memoryview(changes).cast("b")), default=0) > _MAX_DEPTH:
        raise FieldError("", f"the JSON is nested deeper than {_MAX_DEPTH}")
    if changes.count(1) > _MAX_CONTAINERS:
        raise FieldError("", f"the JSON has more than {_MAX_CONTAINERS} objects and arrays")


def _check_surrogates(text: bytes, value: Any) -> None:
    if rb"\u" in text and _has_surrogate(value):
        raise FieldError("", "the body contains a lone surrogate")


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(name) or _has_surrogate(item) for name, item in value.items())
    return isinstance(value, list) and any(_has_surrogate(item) for item in value)
