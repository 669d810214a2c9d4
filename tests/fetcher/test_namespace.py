"""Engine in a network namespace: only the guard's socket is there, for native code too."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError
from tests.fetcher.conftest import Harness, open_harness
from tests.fetcher.guard_harness import PUBLIC
from tests.sites.site import Site

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.media import confinement
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.process.namespace import EngineNamespace, NamespaceUnavailable, open_namespace

_CONNECT_FROM_INSIDE = """
import json, socket, sys
from reelhaul_fetcher.ytdlp.process import setns
setns.enter(*map(int, sys.argv[1:3]))
result = {}
for address in json.loads(sys.argv[3]):
    try:
        socket.create_connection(tuple(address), timeout=5).close()
        result[str(address)] = "open"
    except OSError as error:
        result[str(address)] = type(error).__name__
result["interfaces"] = [name for _, name in socket.if_nameindex()]
result["proc"] = open("/proc/self/status").read() != ""
print(json.dumps(result))
"""


@pytest.fixture
async def namespace() -> AsyncIterator[EngineNamespace]:
    """A namespace. The test is skipped if the kernel refuses one."""
    try:
        async with open_namespace("on") as namespace:
            assert namespace
            yield namespace
    except NamespaceUnavailable as error:
        pytest.skip(f"no namespaces here: {error}")


@pytest.fixture
async def harness(
    namespace: EngineNamespace, engine_environment: dict[str, str], tmp_path: Path
) -> AsyncIterator[Harness]:
    """An engine inside the namespace, and its guard outside."""
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",))
    async with open_harness(
        engine_environment, tmp_path, config, namespace.listener, namespace=namespace
    ) as harness:
        yield harness


def connect_from_inside(namespace: EngineNamespace, *addresses: tuple[str, int]) -> dict[str, object]:
    """Return what a process in the namespace, without any other restriction, can connect to."""
    script = [_CONNECT_FROM_INSIDE, str(namespace.user), str(namespace.network), json.dumps(addresses)]
    process = subprocess.run(
        [sys.executable, "-c", *script],
        pass_fds=[namespace.user, namespace.network],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    result: dict[str, object] = json.loads(process.stdout)
    return result


async def test_download(harness: Harness, site: Site) -> None:
    """A download works from inside the namespace."""
    result = await harness.fetch(site.url("/watch/demo"), FormatSpec(max_height=360))
    assert result.delivered.height == 360


async def test_download_without_landlock(
    namespace: EngineNamespace, engine_environment: dict[str, str], tmp_path: Path, site: Site
) -> None:
    """ffmpeg has a mount namespace of its own inside the engine's network namespace."""
    environment = engine_environment | {confinement.VARIABLE: confinement.Mechanism.NAMESPACE.value}
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",))
    async with open_harness(
        environment, tmp_path, config, namespace.listener, namespace=namespace
    ) as harness:
        spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=FormatSpec.Audio(format=FormatSpec.Audio.FLAC))
        result = await harness.fetch(site.url("/watch/demo"), spec)
    assert result.delivered.audio_codec == "flac"


async def test_only_the_guard_is_reachable(harness: Harness, namespace: EngineNamespace, site: Site) -> None:
    """Neither the site beside the guard, nor this machine, nor the internet can be connected to."""
    guard = namespace.listener.getsockname()
    port = urlsplit(site.origin).port or 80
    addresses = [guard, (PUBLIC, port), ("127.0.0.1", port), ("192.0.2.1", 80)]
    result = await asyncio.to_thread(connect_from_inside, namespace, *addresses)
    assert result.pop(str(list(guard))) == "open"
    assert result.pop("interfaces") == ["lo"]
    assert result.pop("proc")
    assert set(result.values()) <= {"ConnectionRefusedError", "OSError"}
    assert len(result) == 3


async def test_zygote_is_inside(harness: Harness, namespace: EngineNamespace) -> None:
    """The zygote, which forks every child, is in the namespace and not in this process's network."""
    network = os.stat(f"/proc/{harness.engine.zygote_pid}/ns/net")
    assert network.st_ino == os.fstat(namespace.network).st_ino
    assert network.st_ino != os.stat("/proc/self/ns/net").st_ino


async def test_restart_of_zygote_and_guard(harness: Harness, site: Site) -> None:
    """After both were killed, a new zygote in the same network and a new guard on the same socket serve."""
    os.kill(harness.guard.pid, 9)
    os.kill(zygote := harness.engine.zygote_pid, 9)
    async with asyncio.timeout(30):
        while harness.engine.zygote_pid in (0, zygote):  # noqa: ASYNC110 - the restart sets no event
            await asyncio.sleep(0.02)
        await harness.engine.wait_until_warm()
    assert (await harness.probe(site.url("/watch/demo"))).title


async def test_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the kernel refuses, ``on`` fails with its reason, ``auto`` logs it, and ``off`` does not try."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes\n"
        "class Library:\n"
        "    def unshare(self, flags):\n"
        "        ctypes.set_errno(1)\n"
        "        return -1\n"
        "ctypes.CDLL = lambda *a, **k: Library()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(NamespaceUnavailable, match="unshare: Operation not permitted"):
        async with open_namespace("on"):
            pass
    assert "no network of its own" not in caplog.text
    async with open_namespace("auto") as namespace:
        assert namespace is None
    assert "no network of its own" in caplog.text
    caplog.clear()
    async with open_namespace("off") as namespace:
        assert namespace is None
    assert not caplog.records


def test_not_with_a_token_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PO token provider needs a direct connection: ``on`` is refused, and ``auto`` means ``off``."""
    monkeypatch.setenv("REELHAUL_FETCHER_PO_TOKEN_URL", "http://127.0.0.1:4416")
    monkeypatch.setenv("REELHAUL_FETCHER_NETWORK_NAMESPACE", "on")
    with pytest.raises(ValidationError, match="PO_TOKEN_URL"):
        Settings(data_dir=tmp_path)
    monkeypatch.setenv("REELHAUL_FETCHER_NETWORK_NAMESPACE", "auto")
    assert Settings(data_dir=tmp_path).namespace == "off"
