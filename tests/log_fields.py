"""The fields of the log as docs/logs.md describes them."""

from __future__ import annotations

import re
from pathlib import Path

_DOCUMENT = Path(__file__).resolve().parents[1] / "docs/logs.md"
_ROW = re.compile(r"^\| `(\w+)` \| (string|number|boolean|object|array) \|", re.MULTILINE)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def documented_fields() -> dict[str, type | tuple[type, ...]]:
    """Return the fields by name, with their types in Python."""
    return {name: _TYPES[kind] for name, kind in _ROW.findall(_DOCUMENT.read_text())}
