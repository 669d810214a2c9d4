"""Trust for the engine: the usual certificates, and those configured besides."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from pathlib import Path


def bundle(extra: Path | None, place: Path) -> Path | None:
    """One PEM file of the usual certificates and *extra*, written into *place*.

    None where there is no *extra*: then the engine's own defaults hold. Raises OSError where
    *extra* cannot be read.
    """
    if extra is None:
        return None
    usual = _usual()
    path = place / "ca.pem"
    path.write_bytes(b"\n".join(file.read_bytes() for file in [*usual, extra]))
    return path


def _usual() -> list[Path]:
    if spec := find_spec("certifi"):
        assert spec.origin is not None
        return [Path(spec.origin).parent / "cacert.pem"]
    default = ssl.get_default_verify_paths().cafile
    return [Path(default)] if default else []
