"""Parse: JSON text to Python values, as strict as RFC 8259 and without its loopholes."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from reelhaul_transcoding.errors import FieldFault

#: Nesting that protobuf's own parsers take.
_MAX_DEPTH = 100

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def value_of(text: bytes) -> Any:
    """The value that *text* says; integers are exact. Raises FieldFault.

    Refused besides what is no JSON: a name twice in one object, NaN and Infinity, halves
    of surrogate pairs, nesting deeper than 100.
    """
    if _depth(text) > _MAX_DEPTH:
        raise FieldFault("", f"the JSON is nested deeper than {_MAX_DEPTH}")
    try:
        value = _DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        raise FieldFault("", "the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FieldFault("", f"the body is not JSON: {error.msg} at {place}") from error
    except ValueError as error:
        raise FieldFault("", f"the body is not JSON: {error}") from error
    if rb"\u" in text and _lone(value):
        raise FieldFault("", "the body holds half a surrogate pair")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {json.dumps(twice[:80])} stands twice in one object")
    return made


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number; write it as a string")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refused)


def _depth(text: bytes) -> int:
    if text.count(b"{") + text.count(b"[") <= _MAX_DEPTH:
        return 0
    depth = deepest = 0
    for token in _TOKEN.finditer(text):
        if token[0] in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in b"}]":
            depth -= 1
    return deepest


def _lone(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_lone(name) or _lone(item) for name, item in value.items())
    return isinstance(value, list) and any(_lone(item) for item in value)
