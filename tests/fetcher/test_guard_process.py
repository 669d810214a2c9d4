"""The guard's process: sessions survive its restarts, and it never outlives its fetcher."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import sys
import textwrap
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.fetcher.guard_harness import PUBLIC, Response, Site, proxy_client, running_site
from tests.metric_values import MetricChanges

from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, _Session, running_guard
from reelhaul_fetcher.model.proxy_usage import Refusal, Usage


@dataclass
class Harness:
    """A guard in its own process, and a public site."""

    guard: GuardSupervisor
    site: Site

    async def get(self, proxy_url: str, path: str = "/", host: str = PUBLIC) -> Response:
        """Request *path* through *proxy_url*."""
        async with proxy_client(port_of(proxy_url)) as client:
            target = f"http://{host}:{self.site.port}{path}"
            return await client.request("GET", target, credentials=credentials_of(proxy_url))


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with running_site() as site, running_guard(GuardConfig(allow_networks=(f"{PUBLIC}/32",))) as guard:
        yield Harness(guard, site)


def port_of(proxy_url: str) -> int:
    port = urlsplit(proxy_url).port
    assert port
    return port


def credentials_of(proxy_url: str) -> str:
    return urlsplit(proxy_url).netloc.partition("@")[0]


def wait_until_gone(pid: int, seconds: float = 5) -> bool:
    """Return whether the process *pid* ends within *seconds*."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


async def test_session_from_open_to_close(harness):
    """A session's traffic is forwarded and counted; closing it returns its usage with the refusals."""
    harness.site.responses["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    proxy_url = await harness.guard.open("job-1")
    assert (await harness.get(proxy_url)).body == b"x" * 5000
    assert (await harness.get(proxy_url, host="127.0.0.1")).refusal == "loopback"
    during = await harness.guard.usage("job-1")
    after = await harness.guard.close("job-1")
    assert during == after
    assert after.ingress_bytes == len(harness.site.responses["/"])
    assert after.egress_bytes == len(harness.site.heads[0])
    assert after.refusals == (Refusal("127.0.0.1", "loopback"),)
    assert (await harness.get(proxy_url)).status == 407


async def test_sessions_are_separate(harness):
    """Each session has its own secret, budget and usage."""
    harness.site.responses["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    small = await harness.guard.open("small", byte_limit=100)
    large = await harness.guard.open("large", byte_limit=100_000)
    assert (await harness.get(small)).refusal == "byte-budget"
    assert (await harness.get(large)).status == 200
    assert (await harness.get(small)).refusal == "byte-budget"
    assert (await harness.guard.close("large")).refusals == ()


async def test_session_names(harness):
    """A session is opened once, with a name that is valid in a URL; closing an unknown one does nothing."""
    await harness.guard.open("a")
    for name in ("a", "", "a:b", "a@b", "a/b", "ä", "x" * 129, "a\n"):
        with pytest.raises(ValueError, match="session name"):
            await harness.guard.open(name)
    assert await harness.guard.close("b") == Usage()
    with pytest.raises(KeyError):
        await harness.guard.usage("b")


async def test_killed_guard(harness):
    """A killed guard comes back at the same address, with its sessions and their usage."""
    proxy_url = await harness.guard.open("job-1", byte_limit=100_000, seconds=600)
    await harness.get(proxy_url)
    await harness.get(proxy_url, host="127.0.0.1")
    before, pid = await harness.guard.usage("job-1"), harness.guard.pid
    os.kill(pid, signal.SIGKILL)
    assert (await harness.get(proxy_url)).status == 200
    after = await harness.guard.usage("job-1")
    assert after.ingress_bytes == 2 * before.ingress_bytes
    assert after.refusals == before.refusals == (Refusal("127.0.0.1", "loopback"),)
    assert harness.guard.pid != pid


async def test_killed_again_and_again(harness):
    """Calls made while the guard is down are carried out by the next process."""
    for number in range(3):
        os.kill(harness.guard.pid, signal.SIGKILL)
        proxy_url = await harness.guard.open(f"job-{number}")
        assert (await harness.get(proxy_url)).status == 200
    before = await harness.guard.usage("job-2")
    os.kill(harness.guard.pid, signal.SIGKILL)
    assert await harness.guard.close("job-2") == before
    assert before.ingress_bytes > 0
    other = await harness.guard.open("other")
    assert (await harness.get(other)).status == 200


async def test_tunnel_breaks_with_the_guard(harness):
    """A tunnel breaks when the guard dies instead of hanging; the download can be retried."""
    proxy_url = await harness.guard.open("job-1")
    async with proxy_client(port_of(proxy_url)) as client:
        await client.request(
            "CONNECT", f"{PUBLIC}:{harness.site.port}", credentials=credentials_of(proxy_url)
        )
        os.kill(harness.guard.pid, signal.SIGKILL)
        try:
            rest = await asyncio.wait_for(client.reader.read(), 5)
        except ConnectionResetError:
            rest = b""
        assert rest == b""
    assert (await harness.get(proxy_url)).status == 200


async def test_group_signals(harness):
    """The guard ignores signals to the whole process group: draining downloads still need it."""
    proxy_url, pid = await harness.guard.open("job-1"), harness.guard.pid
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    assert (await harness.get(proxy_url)).status == 200
    assert harness.guard.pid == pid


async def test_stop():
    """Leaving the block ends the guard."""
    async with running_guard(GuardConfig()) as guard:
        pid = guard.pid
    assert wait_until_gone(pid, 0)


def test_no_orphan():
    """When the fetcher is killed its guard ends too."""
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
        assert not wait_until_gone(pid, 0)
        fetcher.kill()
        assert wait_until_gone(pid)


async def test_secrets_are_not_shown(harness):
    """Neither the command line, the environment nor a repr shows a secret."""
    os.environ["REELHAUL_SUITE_TOKEN"] = "the-token"
    try:
        config = GuardConfig(egresses={"": "http://user:the-password@127.0.0.1:1"})
        async with running_guard(config) as guard:
            proxy_url = await guard.open("job-1")
            secret = urlsplit(proxy_url).password
            process = Path(f"/proc/{guard.pid}")
            shown = b"".join((process / name).read_bytes() for name in ("cmdline", "environ"))
            shown += repr((config, guard, vars(guard))).encode()
    finally:
        del os.environ["REELHAUL_SUITE_TOKEN"]
    assert secret
    for hidden in (secret, "the-password", "the-token", b64encode(b"user:the-password").decode()):
        assert hidden.encode() not in shown


async def test_refusals_are_logged(harness, caplog):
    """Each refusal is a line in the fetcher's log, with the session, the host and the reason."""
    caplog.set_level(logging.INFO)
    proxy_url = await harness.guard.open("job-1")
    for host in ("127.0.0.1", "[::1]"):
        await harness.get(proxy_url, host=host)
    await harness.guard.close("job-1")
    records = [record for record in caplog.records if record.message == "the guard refused"]
    assert [(record.__dict__["session"], record.host, record.cause) for record in records] == [
        ("job-1", "127.0.0.1", "loopback"),
        ("job-1", "[::1]", "loopback"),
    ]


async def test_logged_refusals_are_limited(caplog):
    """A session that is refused without end has a hundred lines; all refusals are counted."""
    caplog.set_level(logging.INFO)
    changes = MetricChanges()
    session, usage = _Session("job-1", byte_limit=0, egress="", deadline=0), Usage()
    for _ in range(150):
        usage.add_refusal("127.0.0.1", "loopback")
        session.update_usage(replace(usage))
    assert [record.message for record in caplog.records] == ["the guard refused"] * 100
    assert changes.of("reelhaul_guard_refused_total") == {("loopback",): 150}


@pytest.mark.parametrize(
    "invalid",
    [
        {"allow_networks": ("10.0.0.1/8",)},
        {"allow_networks": ("example.com",)},
        {"extra_ports": (0,)},
        {"egresses": {"": "socks5://127.0.0.1:1"}},
    ],
)
def test_invalid_config(invalid):
    """An invalid configuration is rejected."""
    with pytest.raises(ValueError, match=r"host bits|IPv4|port|upstream"):
        GuardConfig(**invalid)
