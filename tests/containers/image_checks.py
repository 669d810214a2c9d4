"""What must hold of the images: size, user, licenses, layers, and the container that runs everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import httpx
from tests import engine as ytdlp
from tests.containers import images
from tests.containers.deployment import DeploymentError
from tests.containers.engine import Engine
from tests.docs.page import DOCS, read_blocks
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


def check_bill_of_materials(engine: Engine) -> str:
    """``make sbom`` lists the Python packages of the image and Debian's, each with its version."""
    with tempfile.TemporaryDirectory(prefix="reelhaul-sbom-") as name:
        file = Path(name) / "image.spdx.json"
        command = [Path(sys.executable).with_name("syft"), "scan", "-q", f"docker:{ALL}"]
        subprocess.run(
            [*command, "--output", f"spdx-json={file}"], env=engine.environment, check=True, timeout=300
        )
        entries = json.loads(file.read_text())["packages"]
    packages = {(each["name"], each.get("versionInfo")) for each in entries}
    expected = {(name, version(name)) for name in ("reelhaul", "yt-dlp", "grpcio")}
    if missing := expected - packages:
        raise DeploymentError(f"the bill of materials lacks {missing}")
    if not any(name == "libc6" for name, _ in packages):
        raise DeploymentError("the bill of materials lacks Debian's packages")
    return f"the bill of materials has {len(packages)} packages"


def check_engine_layer(engine: Engine) -> str:
    """Another yt-dlp replaces the last layer of the image, and nothing else."""
    floor, tag = ytdlp.floor(), f"{ALL}:floor"
    images.build(engine, tag, arguments={"YTDLP": floor})
    old, new = images.layers(engine, ALL), images.layers(engine, tag)
    if old[:-1] != new[:-1] or old[-1] == new[-1]:
        raise DeploymentError(f"an upgrade of yt-dlp replaces more than the last layer: {old} {new}")
    if floor not in (shown := _run(engine, tag, "reelhaul", "fetcher", "version")):
        raise DeploymentError(f"the image does not have yt-dlp {floor}: {shown}")
    size = images.unpacked_bytes(engine, tag) - sum(_layer_sizes(engine, tag)[1:])
    return f"yt-dlp {floor} replaces one layer of {size / 1e6:.0f} MB"


def check_all_in_one(engine: Engine) -> str:
    """The commands of docs/containers.md run one container, which keeps its data in the volume and drains."""
    address = f"127.0.0.1:{free_port()}"
    start, use = (
        block.text.replace("127.0.0.1:8080", address)
        for block in read_blocks(DOCS / "containers.md")
        if block.section == "One container" and block.is_run
    )
    keys = set()
    for _ in range(2):
        _run_script(engine, start)
        _wait_until_healthy(engine, ALL)
        key = engine.run("exec", ALL, "cat", "/data/run/api-key")
        keys.add(key)
        _check_api(address, key)
        _check_confinement(engine)
        if (output := _run_script(engine, use)).splitlines()[0] != key or "gateway" not in output:
            raise DeploymentError(f"the commands of the page print {output.replace(key, '(the key)')}")
        if (code := engine.run("inspect", "--format={{.State.ExitCode}}", ALL)) != "0":
            raise DeploymentError(f"the container ended with {code}")
        if key in engine.run("logs", ALL):
            raise DeploymentError("the log of the container has the key")
        engine.run("rm", ALL)
    if len(keys) != 1:
        raise DeploymentError("a second container on the volume has another key")
    engine.run("volume", "rm", ALL)
    return "one container: ready, confined, kept its data, drained"


def _check_api(address: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    listed = httpx.get(f"http://{address}/v1/jobs", headers=headers, trust_env=False, timeout=30)
    if listed.status_code != 200:
        raise DeploymentError(f"the container answers {listed.status_code}: {listed.text[:300]}")


def _check_confinement(engine: Engine) -> None:
    script = "id -u; touch /x 2>&1 || true; cat /proc/1/comm"
    user, touch, init = engine.run("exec", ALL, "sh", "-c", script).splitlines()
    if user != "10001" or "Read-only file system" not in touch or init != "dumb-init":
        raise DeploymentError(f"the container is not confined: user {user}, {touch}, process 1 {init}")


def _run_script(engine: Engine, script: str) -> str:
    """Run *script* in a shell; return its output. Raises DeploymentError if a command fails."""
    done = subprocess.run(
        ["bash", "-euc", script],
        env=engine.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise DeploymentError(f"`{script.strip()}` ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


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
