"""Images of the containers' tests, built without a registry of images, from packages of Debian and PyPI.

Only package registries are used, as this machine's pip and apt are configured.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests import debian_packages
from tests.containers.engine import Engine
from tests.debian_packages import Missing

ROOT = Path(__file__).parents[2]
DOCKERFILE = "deploy/docker/Dockerfile"
#: The base image: Debian with the Python of the tests.
BASE = "reelhaul-ci/python"
#: Targets of standins/Dockerfile, by the names of services in compose.yaml.
STAND_INS = ("nats", "postgres", "s3", "valkey", "prometheus", "alertmanager")
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates,wget"
_BASE_SECONDS = 300
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class Builder(Protocol):
    """What builds images: Docker's engine, or another with its commands."""

    def run(self, *arguments: str | Path) -> str:
        """Run a command; return its output. Raises EngineError."""


def import_base(engine: Builder) -> None:
    """Give *engine* the base image. Raises Missing if it cannot be built here."""
    engine.run("import", _base_archive(), BASE)


def build(engine: Builder, tag: str, target: str = "all", arguments: Mapping[str, str] | None = None) -> None:
    """Build *target* of the Dockerfile as *tag*, from this checkout. Raises EngineError."""
    options = [f"--build-arg={name}={value}" for name, value in {"BASE": BASE, **(arguments or {})}.items()]
    with _pip_secrets() as secrets:
        engine.run(
            "buildx", "build", "--quiet", "--network=host", *options, *secrets,
            f"--target={target}", f"--tag={tag}", f"--file={ROOT / DOCKERFILE}", ROOT,
        )  # fmt: skip


def build_stand_ins(engine: Builder, targets: Sequence[str] = STAND_INS) -> None:
    """Build the images that compose.ci.yaml names. Raises EngineError."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="reelhaul-standins-") as name:
        context = Path(name)
        for program in ("nats-server", "weed", "redis-server", "redis-cli"):
            shutil.copy(programs / program, context)
        for file in (ROOT / "tests/containers/standins").iterdir():
            shutil.copy(file, context)
        for target in targets:
            engine.run(
                "buildx", "build", "--quiet", "--network=host", f"--build-arg=BASE={BASE}",
                f"--target={target}", f"--tag=reelhaul-ci/{target}", context,
            )  # fmt: skip


def unpacked_bytes(engine: Engine, tag: str) -> int:
    """Return the size of all layers of *tag* on a disk."""
    return int(engine.run("image", "inspect", "--format={{.Size}}", tag))


def compressed_bytes(engine: Engine, tag: str) -> int:
    """Return the most that *tag* takes in a registry: its layers, compressed as fast as gzip can."""
    counter = _Counter()
    with tempfile.TemporaryDirectory(prefix="reelhaul-image-") as name:
        archive = Path(name) / "image.tar"
        engine.run("save", "--output", archive, tag)
        with (
            tarfile.open(archive) as tar,
            gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=1) as compressed,
        ):
            for layer in (member for member in tar if member.name.endswith("layer.tar")):
                source = tar.extractfile(layer)
                while source is not None and (block := source.read(1 << 20)):
                    compressed.write(block)
    return counter.size


class _Counter:
    """A file that counts what is written, and keeps nothing."""

    size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def layers(engine: Engine, tag: str) -> list[str]:
    """Return the digests of the layers of *tag*, the base's first."""
    found: list[str] = json.loads(engine.run("image", "inspect", "--format={{json .RootFS.Layers}}", tag))
    return found


def _base_archive() -> Path:
    """Return the archive of the base image, built on first use."""
    tools = debian_packages.unpack("mmdebstrap")
    archive = tools.parent / f"{_SUITE}-{_PACKAGES.replace(',', '-')}.tar"
    if archive.exists():
        return archive
    temporary = archive.with_suffix(f".{os.getpid()}.tar")
    options = ["--variant=minbase", f"--include={_PACKAGES}", '--aptopt=APT::Install-Recommends "false"']
    options += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")]
    options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    try:
        done = subprocess.run(
            ["mmdebstrap", *options, _SUITE, temporary],
            env=os.environ | debian_packages.environment(tools),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BASE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise Missing(f"no base image: mmdebstrap failed: {done.stderr[-500:]}")
        temporary.rename(archive)
    except subprocess.TimeoutExpired:
        raise Missing(f"no base image: mmdebstrap took longer than {_BASE_SECONDS} s") from None
    finally:
        temporary.unlink(missing_ok=True)
    return archive


@contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """Yield the options that give a build this machine's package index and certificates, as secrets."""
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    # name='value': an index that only this machine has (file:) is of no use in a build.
    settings = dict(line.split("=", 1) for line in configured.splitlines() if "=" in line)
    values = {name.rpartition(".")[2]: value.strip("'") for name, value in settings.items()}
    kept = {
        name: value
        for name in ("index-url", "extra-index-url", "trusted-host")
        if (value := values.get(name)) and not value.startswith("file:")
    }
    with tempfile.TemporaryDirectory(prefix="reelhaul-pip-") as name:
        config = Path(name) / "pip.conf"
        lines = ["[global]", "retries = 5", *(f"{key} = {value}" for key, value in kept.items())]
        secrets = [f"--secret=id=pip.conf,src={config}"]
        if _AUTHORITIES.exists():
            lines.append("cert = /run/secrets/ca.pem")
            secrets.append(f"--secret=id=ca.pem,src={_AUTHORITIES}")
        config.write_text("\n".join(lines) + "\n")
        yield secrets
