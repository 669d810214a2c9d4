"""The guard as a process: it starts fast, outlives nothing, and its death is only a pause."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.fetcher.guarding import PUBLIC, Answer, Site, a_client, a_site

from reelhaul_fetcher.guard.session_state import Pass, Refusal
from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, running_guard


@dataclass
class World:
    """A guard in its own process, and a public site."""

    guard: GuardSupervisor
    site: Site

    async def get(self, way_out: Pass, path: str = "/", host: str = PUBLIC) -> Answer:
        """Ask for *path* with the pass *way_out*."""
        parts = urlsplit(way_out.proxy_url)
        async with a_client(way_out.port) as client:
            target = f"http://{host}:{self.site.port}{path}"
            return await client.ask("GET", target, pass_=f"{parts.username}:{parts.password}")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_site() as site, running_guard(GuardConfig(allow_networks=(f"{PUBLIC}/32",))) as guard:
        yield World(guard, site)


def until_gone(pid: int, seconds: float = 5) -> bool:
    """Whether the process *pid* has ended within *seconds*."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


async def test_pass_from_open_to_close(world):
    """A pass lets through and is counted; closing tells what it used and was refused."""
    world.site.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    way_out = await world.guard.open("job-1")
    assert (await world.get(way_out)).body == b"x" * 5000
    assert (await world.get(way_out, host="127.0.0.1")).why == "loopback"
    during = await world.guard.usage("job-1")
    after = await world.guard.close("job-1")
    assert during == after
    assert after.ingress_bytes == len(world.site.answers["/"])
    assert after.egress_bytes == len(world.site.heads[0])
    assert after.refusals == (Refusal("127.0.0.1", "loopback"),)
    assert (await world.get(way_out)).status == 407


async def test_passes_are_apart(world):
    """Each pass has its own secret, budget and count."""
    world.site.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    small = await world.guard.open("small", byte_limit=100)
    large = await world.guard.open("large", byte_limit=100_000)
    assert (await world.get(small)).why == "byte-budget"
    assert (await world.get(large)).status == 200
    assert (await world.get(small)).why == "byte-budget"
    assert (await world.guard.close("large")).refusals == ()


async def test_wrong_names(world):
    """A pass is opened once, by a name that can stand in a URL, and only what is open is closed."""
    await world.guard.open("a")
    for name in ("a", "", "a:b", "a@b", "a/b", "ä", "x" * 129, "a\n"):
        with pytest.raises(ValueError, match="pass"):
            await world.guard.open(name)
    with pytest.raises(KeyError):
        await world.guard.close("b")
    with pytest.raises(KeyError):
        await world.guard.usage("b")


async def test_killed_guard(world):
    """A guard that is killed is there again at the same address, with its passes and their counts."""
    way_out = await world.guard.open("job-1", byte_limit=100_000, seconds=600)
    await world.get(way_out)
    await world.get(way_out, host="127.0.0.1")
    before, pid = await world.guard.usage("job-1"), world.guard.pid
    os.kill(pid, signal.SIGKILL)
    assert (await world.get(way_out)).status == 200
    after = await world.guard.usage("job-1")
    assert after.ingress_bytes == 2 * before.ingress_bytes
    assert after.refusals == before.refusals == (Refusal("127.0.0.1", "loopback"),)
    assert world.guard.pid != pid


async def test_killed_again_and_again(world):
    """Orders given while the guard is away are carried out by the next one."""
    for turn in range(3):
        os.kill(world.guard.pid, signal.SIGKILL)
        way_out = await world.guard.open(f"job-{turn}")
        assert (await world.get(way_out)).status == 200
    before = await world.guard.usage("job-2")
    os.kill(world.guard.pid, signal.SIGKILL)
    assert await world.guard.close("job-2") == before
    assert before.ingress_bytes > 0
    other = await world.guard.open("other")
    assert (await world.get(other)).status == 200


async def test_tunnel_breaks_with_the_guard(world):
    """A download in a tunnel fails when its guard dies, rather than to hang; then it may try again."""
    way_out = await world.guard.open("job-1")
    async with a_client(way_out.port) as client:
        secret = way_out.proxy_url.partition("//")[2].partition("@")[0]
        await client.ask("CONNECT", f"{PUBLIC}:{world.site.port}", pass_=secret)
        os.kill(world.guard.pid, signal.SIGKILL)
        try:
            rest = await asyncio.wait_for(client.reader.read(), 5)
        except ConnectionResetError:
            rest = b""
        assert rest == b""
    assert (await world.get(way_out)).status == 200


async def test_polite_signals(world):
    """Signals for the whole group leave the guard alone: downloads that drain still need it."""
    way_out, pid = await world.guard.open("job-1"), world.guard.pid
    for polite in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, polite)
    assert (await world.get(way_out)).status == 200
    assert world.guard.pid == pid


async def test_ends_with_its_block():
    """Leaving the block ends the guard."""
    async with running_guard(GuardConfig()) as guard:
        pid = guard.pid
    assert until_gone(pid, 0)


def test_no_orphan():
    """When the fetcher is killed outright its guard ends too, and its port is free."""
    program = textwrap.dedent("""
        import asyncio
        from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard

        async def main():
            async with running_guard(GuardConfig()) as guard:
                print(guard.pid, flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as fetcher:
        assert fetcher.stdout
        pid = int(fetcher.stdout.readline())
        assert not until_gone(pid, 0)
        fetcher.kill()
        assert until_gone(pid)


async def test_nothing_secret_is_shown(world):
    """Neither the command line, the environment nor what may be logged shows a secret."""
    os.environ["REELHAUL_SUITE_TOKEN"] = "the-token"
    try:
        config = GuardConfig(egresses={"": "http://user:the-password@127.0.0.1:1"})
        async with running_guard(config) as guard:
            way_out = await guard.open("job-1")
            secret = urlsplit(way_out.proxy_url).password
            process = Path(f"/proc/{guard.pid}")
            shown = b"".join((process / name).read_bytes() for name in ("cmdline", "environ"))
            shown += repr((config, way_out, guard)).encode()
    finally:
        del os.environ["REELHAUL_SUITE_TOKEN"]
    assert secret
    for hidden in (secret, "the-password", "the-token", b64encode(b"user:the-password").decode()):
        assert hidden.encode() not in shown


async def test_refusals_are_logged(world, caplog):
    """Each refusal is a line in the fetcher's log, with the pass, the host and why."""
    way_out = await world.guard.open("job-1")
    for host in ("127.0.0.1", "[::1]"):
        await world.get(way_out, host=host)
    await world.guard.close("job-1")
    found = [record for record in caplog.records if record.message == "the guard refused"]
    assert [(one.__dict__["pass"], one.host, one.why) for one in found] == [
        ("job-1", "127.0.0.1", "loopback"),
        ("job-1", "[::1]", "loopback"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"allow_networks": ("10.0.0.1/8",)},
        {"allow_networks": ("example.com",)},
        {"extra_ports": (0,)},
        {"egresses": {"": "socks5://127.0.0.1:1"}},
    ],
)
def test_wrong_config(wrong):
    """A guard that is told nonsense does not start."""
    with pytest.raises(ValueError, match=r"host bits|IPv4|port|upstream"):
        GuardConfig(**wrong)
