"""The engine in a network of its own: the guard's door is all that there is, for native code too."""

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
from tests.fetcher.conftest import Harness
from tests.fetcher.guard_harness import PUBLIC
from tests.sites.site import Site

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, running_guard
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.process import namespace as namespaces
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.namespace import EngineNamespace, NamespaceUnavailable

_TRIES = """
import json, socket, sys
from reelhaul_fetcher.ytdlp.process import setns
setns.enter(*map(int, sys.argv[1:3]))
told = {}
for place in json.loads(sys.argv[3]):
    try:
        socket.create_connection(tuple(place), timeout=5).close()
        told[str(place)] = "open"
    except OSError as error:
        told[str(place)] = type(error).__name__
told["interfaces"] = [name for _, name in socket.if_nameindex()]
told["mine"] = open("/proc/self/status").read() != ""
print(json.dumps(told))
"""


@pytest.fixture
async def space() -> AsyncIterator[EngineNamespace]:
    """A namespace; where the kernel refuses one there is nothing to test."""
    try:
        async with namespaces.open_namespace("on") as found:
            assert found
            yield found
    except NamespaceUnavailable as refused:
        pytest.skip(f"no namespaces here: {refused}")


@pytest.fixture
async def harness(
    space: EngineNamespace, engine_environment: dict[str, str], tmp_path: Path
) -> AsyncIterator[tuple[Harness, GuardSupervisor]]:
    """An engine inside, its guard outside."""
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",))
    async with (
        running_guard(config, space.listener) as guard,
        YtDlpEngine.open(engine_environment, "test-worker", namespace=space) as engine,
    ):
        await engine.wait_until_warm()
        yield Harness(engine, guard, tmp_path), guard


def inside(space: EngineNamespace, *places: tuple[str, int]) -> dict[str, object]:
    """What a process without any other bars reaches from inside."""
    done = subprocess.run(
        [sys.executable, "-c", _TRIES, str(space.user), str(space.network), json.dumps(places)],
        pass_fds=[space.user, space.network],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    told: dict[str, object] = json.loads(done.stdout)
    return told


async def test_fetches_come(harness: tuple[Harness, GuardSupervisor], site: Site) -> None:
    """A download through the door is as any other, and its bytes are counted."""
    engine, _ = harness
    report = await engine.fetch(site.url("/watch/demo"), FormatSpec(max_height=360))
    assert report.delivered.height == 360


async def test_nothing_else_is_reached(
    harness: tuple[Harness, GuardSupervisor], space: EngineNamespace, site: Site
) -> None:
    """Not the site beside the guard, not this machine, not the world: no road leads to them."""
    door = space.listener.getsockname()
    port = urlsplit(site.origin).port or 80
    places = [door, (PUBLIC, port), ("127.0.0.1", port), ("192.0.2.1", 80)]
    told = await asyncio.to_thread(inside, space, *places)
    assert told.pop(str(list(door))) == "open"
    assert told.pop("interfaces") == ["lo"]
    assert told.pop("mine")
    assert set(told.values()) <= {"ConnectionRefusedError", "OSError"}
    assert len(told) == 3


async def test_the_engine_lives_there(
    harness: tuple[Harness, GuardSupervisor], space: EngineNamespace
) -> None:
    """The warm parent, from which each fetch is forked, is in that network and not in ours."""
    engine, _ = harness
    theirs = os.stat(f"/proc/{engine.engine.zygote_pid}/ns/net")
    assert theirs.st_ino == os.fstat(space.network).st_ino
    assert theirs.st_ino != os.stat("/proc/self/ns/net").st_ino


async def test_both_may_die(harness: tuple[Harness, GuardSupervisor], site: Site) -> None:
    """The next parent lives in the same network, the next guard listens at the same door."""
    engine, guard = harness
    os.kill(guard.pid, 9)
    os.kill(parent := engine.engine.zygote_pid, 9)
    async with asyncio.timeout(30):
        while engine.engine.zygote_pid in (0, parent):  # noqa: ASYNC110 - it comes back by itself
            await asyncio.sleep(0.02)
        await engine.engine.wait_until_warm()
    assert (await engine.probe(site.url("/watch/demo"))).title


async def test_where_it_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """``on`` ends the start and says why; ``auto`` says why and goes on; ``off`` does not try."""

    async def refused() -> EngineNamespace:
        raise NamespaceUnavailable(1, "unshare: Operation not permitted")

    monkeypatch.setattr(namespaces, "_create", refused)
    with pytest.raises(NamespaceUnavailable, match="unshare"):
        async with namespaces.open_namespace("on"):
            pass
    async with namespaces.open_namespace("auto") as found:
        assert found is None
    assert "no network of its own" in caplog.text
    async with namespaces.open_namespace("off") as found:
        assert found is None


async def test_the_maker_tells_what_was_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the kernel says comes back, not a bare failure."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes\n"
        "class Library:\n"
        "    def unshare(self, flags):\n"
        "        ctypes.set_errno(1)\n"
        "        return -1\n"
        "ctypes.CDLL = lambda *a, **k: Library()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(NamespaceUnavailable, match="Operation not permitted"):
        async with namespaces.open_namespace("on"):
            pass


def test_not_with_a_maker_of_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A maker of tokens is asked directly, which such a network bars: ``on`` is refused, ``auto`` is off."""
    monkeypatch.setenv("REELHAUL_FETCHER_PO_TOKEN_URL", "http://127.0.0.1:4416")
    monkeypatch.setenv("REELHAUL_FETCHER_NETWORK_NAMESPACE", "on")
    with pytest.raises(ValidationError, match="PO_TOKEN_URL"):
        Settings(data_dir=tmp_path)
    monkeypatch.setenv("REELHAUL_FETCHER_NETWORK_NAMESPACE", "auto")
    assert Settings(data_dir=tmp_path).namespace == "off"
