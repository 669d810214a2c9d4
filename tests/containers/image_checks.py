"""What must hold of the images: size, user, licenses, layers, and the container that runs everything."""

from __future__ import annotations

import re
import time

import httpx
from tests import engine as ytdlp
from tests.containers import images
from tests.containers.deployment import DeploymentError
from tests.containers.engine import Engine
from tests.servers import free_port

ALL, SERVER = "reelhaul", "reelhaul-server"
#: Budgets: what a registry sends of the image with everything, and what the other one takes on a disk.
_BUDGET = 350_000_000
_READY_SECONDS = 60
_HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def check_sizes(engine: Engine) -> str:
    """Both images are within their budgets."""
    compressed, unpacked = images.compressed_bytes(engine, ALL), images.unpacked_bytes(engine, SERVER)
    all_unpacked = images.unpacked_bytes(engine, ALL)
    sizes = (
        f"{ALL}: {compressed / 1e6:.0f} MB compressed, {all_unpacked / 1e6:.0f} MB unpacked;"
        f" {SERVER}: {unpacked / 1e6:.0f} MB unpacked"
    )
    if max(compressed, unpacked) > _BUDGET:
        raise DeploymentError(f"above the budget of {_BUDGET / 1e6:.0f} MB: {sizes}")
    return sizes


def check_licenses(engine: Engine) -> str:
    """Each Python package of both images, and the programs in them, have the texts of their licenses."""
    counts = []
    for tag in (ALL, SERVER):
        script = (
            "import re, pathlib, importlib.metadata as m\n"
            "names = {re.sub('[-_.]+', '-', d.name).lower() for d in m.distributions()}\n"
            "texts = {p.parent.name for p in pathlib.Path('/licenses').glob('*/*') if p.name != 'PACKAGE'}\n"
            "print(len(names), *sorted(names - texts))"
        )
        count, *missing = _run(engine, tag, "/opt/venv/bin/python", "-c", script).split()
        if missing:
            raise DeploymentError(f"{tag} has no licenses of {', '.join(missing)}")
        counts.append(f"{tag} {count}")
    build = _run(engine, ALL, "cat", "/licenses/imageio-ffmpeg/BUILD", "/licenses/imageio-ffmpeg/GPL-3.txt")
    for expected in ("--enable-gpl", "GNU GENERAL PUBLIC LICENSE"):
        if expected not in build:
            raise DeploymentError(f"the licenses of ffmpeg lack {expected!r}")
    without_gpl = _run(engine, SERVER, "sh", "-c", "ls /opt /licenses; command -v deno ffmpeg || true")
    if re.search(r"ffmpeg|^av$|deno|yt-dlp", without_gpl, re.MULTILINE):
        raise DeploymentError(f"{SERVER} has parts of the engine: {without_gpl}")
    return f"licenses of packages: {', '.join(counts)}"


def check_engine_layer(engine: Engine) -> str:
    """Another yt-dlp replaces the last layer of the image, and nothing else."""
    version, tag = ytdlp.floor(), f"{ALL}:floor"
    images.build(engine, tag, arguments={"YTDLP": version})
    old, new = images.layers(engine, ALL), images.layers(engine, tag)
    if old[:-1] != new[:-1] or old[-1] == new[-1]:
        raise DeploymentError(f"an upgrade of yt-dlp replaces more than the last layer: {old} {new}")
    if version not in (shown := _run(engine, tag, "reelhaul", "fetcher", "version")):
        raise DeploymentError(f"the image does not have yt-dlp {version}: {shown}")
    size = images.unpacked_bytes(engine, tag) - sum(_layer_sizes(engine, tag)[1:])
    return f"yt-dlp {version} replaces one layer of {size / 1e6:.0f} MB"


def check_all_in_one(engine: Engine) -> str:
    """``docker run`` of one container serves with a key, keeps its data in the volume, and drains."""
    address = f"127.0.0.1:{free_port()}"
    run = ("run", "--detach", "--publish", f"{address}:8080", "--volume", "data:/data", *_HARDENED, ALL)
    keys, seconds = [], 0.0
    for _ in range(2):
        container = engine.run(*run)
        begin = time.monotonic()
        _wait_until_healthy(engine, container)
        key = engine.run("exec", container, "cat", "/data/run/api-key")
        keys.append(key)
        listed = httpx.get(
            f"http://{address}/v1/jobs",
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=30,
        )
        if listed.status_code != 200:
            raise DeploymentError(f"the container answers {listed.status_code}: {listed.text[:300]}")
        user = engine.run("exec", container, "sh", "-c", "id -u; touch /x 2>&1 || true")
        if not user.startswith("10001") or "Read-only file system" not in user:
            raise DeploymentError(f"the container is not confined: {user}")
        if engine.run("exec", container, "sh", "-c", "cat /proc/1/comm") != "dumb-init":
            raise DeploymentError("process 1 is no init")
        begin = time.monotonic()
        engine.run("stop", "--time=40", container, seconds=60)
        seconds = time.monotonic() - begin
        if (code := engine.run("inspect", "--format={{.State.ExitCode}}", container)) != "0":
            raise DeploymentError(f"the container ended with {code}")
        logs = engine.run("logs", container)
        if key in logs:
            raise DeploymentError("the log of the container has the key")
        engine.run("rm", container)
    if keys[0] != keys[1]:
        raise DeploymentError("the second container on the volume has another key")
    return f"all in one container: ready, kept its data, drained in {seconds:.1f} s"


def _run(engine: Engine, tag: str, *command: str) -> str:
    return engine.run(
        "run", "--rm", "--network=none", *_HARDENED, f"--entrypoint={command[0]}", tag, *command[1:]
    )


def _layer_sizes(engine: Engine, tag: str) -> list[int]:
    """Return the sizes of the layers of *tag*, the last one first."""
    lines = engine.run("history", "--human=false", "--format={{.Size}}", tag).splitlines()
    return [int(line) for line in lines]


def _wait_until_healthy(engine: Engine, container: str) -> None:
    """Wait until the check of the image passes."""
    end = time.monotonic() + _READY_SECONDS
    while "gateway: ready" not in engine.run("exec", container, "reelhaul", "health", "gateway", check=False):
        if time.monotonic() > end:
            raise DeploymentError(f"the container is not ready: {engine.run('logs', container)[-2000:]}")
        time.sleep(0.3)
