"""Version of this installation."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the version of this installation; ``0`` if it is not installed."""
    try:
        return metadata.version("reelhaul")
    except metadata.PackageNotFoundError:
        return "0"
