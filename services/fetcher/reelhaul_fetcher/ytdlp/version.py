"""Which engine is installed here, and which one this build asks for at least."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib import metadata

from reelhaul_fetcher.model.engine_age import Age, age_of

_PACKAGE = "yt-dlp"


def age(engine: str = "") -> Age:
    """How old *engine* is, e.g. "yt-dlp 2026.10.26"; empty means the one that is installed."""
    if not engine:
        try:
            engine = f"{_PACKAGE} {metadata.version(_PACKAGE)}"
        except metadata.PackageNotFoundError:
            engine = f"no {_PACKAGE}"
    return age_of(engine, datetime.now(UTC).date(), _floor())


def _floor() -> str:
    try:
        asked = metadata.requires("reelhaul") or []
    except metadata.PackageNotFoundError:
        return ""
    for line in asked:
        if found := re.match(rf"{_PACKAGE}\s*>=\s*([\d.]+)", line):
            return found[1]
    return ""
