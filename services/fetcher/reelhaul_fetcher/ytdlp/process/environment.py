"""What the engine's processes see of the world: nothing of ours that a site could make use of."""

from __future__ import annotations

import os
import ssl
import sys
from importlib.util import find_spec
from pathlib import Path


def build_environment(
    tools: Path, home: Path, ca_bundle: Path | None, *, plugins: bool = False
) -> dict[str, str]:
    """What the parent and its children see: no secret of ours, no one's configuration, our tools first.

    yt-dlp's *plugins* are code of others: loaded only where one of them is asked for.
    """
    told = {key: os.environ[key] for key in ("PYTHONPATH", "LANG", "LC_ALL", "TZ") if key in os.environ}
    told |= {
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.defpath.lstrip(":")]),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }
    if not plugins:
        told["YTDLP_NO_PLUGINS"] = "1"
    if ca_bundle is not None:
        # Every name that some TLS library of the engine reads.
        told |= dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"), str(ca_bundle))
    return told


def write_ca_bundle(extra: Path | None, place: Path) -> Path | None:
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
