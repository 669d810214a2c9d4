"""Environment of the engine's processes: variables and certificates, nothing that a site could exploit."""

from __future__ import annotations

import os
import ssl
import sys
from importlib.util import find_spec
from pathlib import Path

from reelhaul_fetcher.media import confinement
from reelhaul_runtime.child_process import environment_without_settings


def build_environment(
    tools: Path, home: Path, ca_bundle: Path | None, *, plugins: bool = False
) -> dict[str, str]:
    """Return the environment variables of the zygote: no secrets, no user configuration, our tools first.

    yt-dlp's *plugins* are third-party code: they are loaded only if a setting needs one.
    """
    inherited = environment_without_settings()
    kept = ("PYTHONPATH", "LANG", "LC_ALL", "TZ")
    variables = {key: value for key, value in inherited.items() if key in kept}
    variables |= {
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.defpath.lstrip(":")]),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        confinement.VARIABLE: confinement.mechanism().value,
    }
    if not plugins:
        variables["YTDLP_NO_PLUGINS"] = "1"
    if ca_bundle is not None:
        # One name for each TLS library of the engine.
        names = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        variables |= dict.fromkeys(names, str(ca_bundle))
    return variables


def write_ca_bundle(extra: Path | None, folder: Path) -> Path | None:
    """Write the usual certificates and *extra* into one PEM file in *folder*; return its path.

    Without *extra*, return None: the engine's own defaults apply. Raises OSError if *extra* cannot be read.
    """
    if extra is None:
        return None
    path = folder / "ca.pem"
    path.write_bytes(b"\n".join(file.read_bytes() for file in [*_default_bundles(), extra]))
    return path


def _default_bundles() -> list[Path]:
    if spec := find_spec("certifi"):
        assert spec.origin is not None
        return [Path(spec.origin).parent / "cacert.pem"]
    default = ssl.get_default_verify_paths().cafile
    return [Path(default)] if default else []
