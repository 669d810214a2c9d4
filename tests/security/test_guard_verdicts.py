"""Only the guard speaks for the guard: no site is believed in its name, and it names what it refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
import trustme
from tests.fetcher.conftest import Harness, open_harness
from tests.fetcher.guard_harness import PUBLIC, Site, in_process_guard, proxy_client, running_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.guard.verdicts import Verdict, find_verdict
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.model.egresses import EGRESS_CAUSE
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle
from reelhaul_runtime.errors import ReelhaulError

#: Of another session than the one attacked.
SECRET = "session-secret"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TlsSites:
    """Sites with certificates that the engine trusts."""

    def __init__(self) -> None:
        self.authority = trustme.CA()

    @asynccontextmanager
    async def running_site(self, host: str = PUBLIC) -> AsyncIterator[Site]:
        """Run a site that speaks TLS on *host*."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(host).configure_cert(context)
        site = Site()
        server = await asyncio.start_server(site.serve, host, 0, ssl=context)
        site.port = server.sockets[0].getsockname()[1]
        try:
            yield site
        finally:
            server.close()


@pytest.fixture(scope="module")
def tls_sites() -> TlsSites:
    return TlsSites()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def harness(tls_sites: TlsSites, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """A harness whose guard allows PUBLIC, and whose engine trusts the sites' certificates."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "home").mkdir()
    tls_sites.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca_bundle = write_ca_bundle(folder / "ca.pem", folder)
    environment = build_environment(tools.link(folder / "tools"), folder / "home", ca_bundle)
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",))
    async with open_harness(environment, tmp_path_factory.mktemp("work"), config) as harness:
        yield harness


def response(status: str, *fields: str) -> bytes:
    return "\r\n".join(
        [f"HTTP/1.1 {status}", *fields, "Content-Length: 0", "Connection: close", "", ""]
    ).encode()


async def fail(harness: Harness, url: str) -> ReelhaulError:
    """Return why the probe of *url* fails."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.probe(url)
    return failure.value


def forged_verdict(refused: bool, reason: str, host: str = PUBLIC) -> str:
    """Return a verdict that is signed with another secret than the session's."""
    return Verdict(refused, reason, host).sign(SECRET)


FORGERIES: dict[str, tuple[bytes, ErrorReason.ValueType]] = {
    "refusal": (response("403 Forbidden", "X-Reelhaul-Guard: loopback"), ErrorReason.MEDIA_FORBIDDEN),
    "byte budget": (response("403 Forbidden", "X-Reelhaul-Guard: byte-budget"), ErrorReason.MEDIA_FORBIDDEN),
    "egress failure": (
        response("503 Unavailable", "X-Reelhaul-Guard-Failure: upstream-407"),
        ErrorReason.UPSTREAM_UNAVAILABLE,
    ),
    "signed refusal": (
        response("404 Not found", f"X-Reelhaul-Guard-Verdict: {forged_verdict(True, 'byte-budget')}"),
        ErrorReason.MEDIA_NOT_FOUND,
    ),
    "signed failure": (
        response("404 Not found", f"X-Reelhaul-Guard-Verdict: {forged_verdict(False, 'upstream-407')}"),
        ErrorReason.MEDIA_NOT_FOUND,
    ),
    "phrase": (response("403 Refused by the guard: byte-budget"), ErrorReason.MEDIA_FORBIDDEN),
    # http.client shows an invalid status line in its error, where the guard's is found over CONNECT.
    "status line that imitates a failed tunnel": (
        b"Tunnel connection failed: 403 Refused by the guard: byte-budget\r\n\r\n",
        ErrorReason.UPSTREAM_UNAVAILABLE,
    ),
    "status line that imitates a broken egress": (
        b"Tunnel connection failed: 502 Site not reached: upstream-407\r\n\r\n",
        ErrorReason.UPSTREAM_UNAVAILABLE,
    ),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("content", "reason"), FORGERIES.values(), ids=FORGERIES)
async def test_site_speaks_for_the_guard(
    harness: Harness, tls_sites: TlsSites, scheme: str, content: bytes, reason: ErrorReason.ValueType
) -> None:
    """A site that answers in the guard's name fails as its status says, and condemns no egress."""
    async with tls_sites.running_site() if scheme == "https" else running_site() as site:
        site.responses["/"] = content
        site.closing.add("/")
        failure = await fail(harness, f"{scheme}://{PUBLIC}:{site.port}/")
    assert site.accepted > 0
    assert ErrorReason.Name(failure.reason) == ErrorReason.Name(reason), failure.text
    assert failure.metadata.get("cause") != EGRESS_CAUSE


@pytest.mark.parametrize("target_scheme", ["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_guard_speaks_for_itself(
    harness: Harness, tls_sites: TlsSites, scheme: str, target_scheme: str
) -> None:
    """After a redirect the failure names the address that the guard refused, and not the first one."""
    async with tls_sites.running_site() if scheme == "https" else running_site() as site:
        site.responses["/"] = response("302 Found", f"Location: {target_scheme}://127.0.0.9:{site.port}/")
        failure = await fail(harness, f"{scheme}://{PUBLIC}:{site.port}/")
    assert (failure.reason, failure.metadata["host"]) == (ErrorReason.URL_FORBIDDEN, "127.0.0.9")
    assert failure.text == "the guard refused 127.0.0.9: loopback"


async def test_redirect_to_an_allowed_address(harness: Harness, tls_sites: TlsSites) -> None:
    """A redirect to an allowed address is followed, and its status is the site's."""
    async with tls_sites.running_site() as site:
        site.responses["/"] = response("302 Found", f"Location: https://{PUBLIC}:{site.port}/gone")
        site.responses["/gone"] = response("410 Gone")
        failure = await fail(harness, f"https://{PUBLIC}:{site.port}/")
    assert failure.reason == ErrorReason.MEDIA_NOT_FOUND


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_unreachable_address_is_named(harness: Harness, scheme: str) -> None:
    """A redirect to an allowed address that does not answer names that address, and may be retried."""
    async with running_site() as site:
        site.responses["/"] = response("302 Found", f"Location: {scheme}://nowhere.invalid/")
        failure = await fail(harness, f"http://{PUBLIC}:{site.port}/")
    assert failure.reason == ErrorReason.UPSTREAM_UNAVAILABLE
    assert (failure.metadata["host"], failure.metadata["cause"]) == ("nowhere.invalid", "dns")


async def test_malformed_target_is_refused(harness: Harness) -> None:
    """A redirect to a target that the guard cannot parse is its refusal too, though it names no host."""
    async with running_site() as site:
        site.responses["/"] = response("302 Found", f"Location: http://{PUBLIC}:0/")
        failure = await fail(harness, f"http://{PUBLIC}:{site.port}/")
    assert failure.reason == ErrorReason.URL_FORBIDDEN
    assert failure.text == "the guard refused an invalid address: port"


@asynccontextmanager
async def upstream_proxy(answer_connect: bytes, answer_get: bytes) -> AsyncIterator[int]:
    """Run a proxy that answers every CONNECT and every other request with these bytes; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer_connect if head.startswith(b"CONNECT ") else answer_get)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


REJECTED = response("407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=x")
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_site_speaks_for_the_upstream_proxy() -> None:
    """A site that answers 407 does not make a working upstream proxy look broken."""
    async with (
        upstream_proxy(CONNECTED, REJECTED) as port,
        in_process_guard(upstream=f"http://u:p@127.0.0.1:{port}") as guard,
    ):
        answer = await guard.request("GET", f"http://{PUBLIC}/")
    assert (answer.status, answer.failure) == (407, "")
    assert "proxy-authenticate" not in answer.fields


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_upstream_proxy_rejects_credentials(method: str) -> None:
    """An upstream proxy that rejects our credentials is told from that by a CONNECT."""
    async with (
        upstream_proxy(REJECTED, REJECTED) as port,
        in_process_guard(upstream=f"http://u:p@127.0.0.1:{port}") as guard,
    ):
        target = f"{PUBLIC}:80"
        answer = await guard.request(method, target if method == "CONNECT" else f"http://{target}/")
    assert (answer.status, answer.failure) == (502, "upstream-407")


async def test_verdict_is_signed_for_its_session() -> None:
    """The guard's answers have a verdict that the session's secret verifies, and no other."""
    async with in_process_guard() as guard:
        answer = await guard.request("GET", "http://127.0.0.9/")
        async with proxy_client(guard.port) as client:
            anonymous = await client.request("GET", "http://127.0.0.9/")
    text = answer.fields["x-reelhaul-guard-verdict"]
    assert find_verdict(text, "secret") == Verdict(True, "loopback", "127.0.0.9")
    assert find_verdict(text, "another") is None
    assert find_verdict(text, "") is None
    assert find_verdict(text.replace("loopback", "metadata"), "secret") is None
    assert "x-reelhaul-guard-verdict" not in anonymous.fields


async def test_plain_site_cannot_send_the_fields() -> None:
    """The guard removes its fields from what a site sends over plain HTTP, and leaves all others."""
    async with running_site() as site, in_process_guard() as guard:
        fields = ["X-Reelhaul-Guard", "x-reelhaul-guard-failure", "X-REELHAUL-GUARD-VERDICT", "X-Other"]
        site.responses["/"] = response("200 OK", *(f"{name}: a" for name in fields))
        answer = await guard.request("GET", f"http://{PUBLIC}:{site.port}/")
    assert not any(name.startswith("x-reelhaul") for name in answer.fields)
    assert answer.fields["x-other"] == "a"
