"""The PROXY protocol: whose word the gateway takes for whom a connection is, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import struct
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.gateway.fake_services import GatewayHarness, running_gateway
from tests.tls_files import Authority

from reelhaul_gateway.proxy_protocol import MAX_HEADER_BYTES, ProxyHeaderError, parse_header
from reelhaul_gateway.settings import Settings

REQUEST = b"GET /v1/jobs/018f HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
WEBSOCKET = (
    b"GET /v1/jobs/018f:watch HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
SECONDS = 20
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(family: int, addresses: bytes, *, version_and_command: int = 0x21) -> bytes:
    """Return a header of version 2."""
    return SIGNATURE + struct.pack("!BBH", version_and_command, family, len(addresses)) + addresses


TCP4 = socket.inet_pton(socket.AF_INET, "192.0.2.7") + socket.inet_pton(socket.AF_INET, "10.0.0.1")
TCP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
PORTS = struct.pack("!HH", 4711, 443)

HEADERS = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n", ""),
    (v2(0x11, TCP4 + PORTS), "192.0.2.7"),
    (v2(0x21, TCP6 + PORTS), "2001:db8::7"),
    # With extensions: type, length, value.
    (v2(0x11, TCP4 + PORTS + b"\x04\x00\x02zz"), "192.0.2.7"),
    # Of the proxy itself, of no family, of a Unix socket.
    (v2(0x11, TCP4 + PORTS, version_and_command=0x20), ""),
    (v2(0x00, b""), ""),
    (v2(0x31, bytes(216)), ""),
]
MALFORMED = [
    b"PROXY",
    b"PROXY ",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\n\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 -1\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 \xb2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
    b"PROXY TCP4 192.0.2.7  10.0.0.1 4711 443\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
    b"PROXY TCP6 192.0.2.7 10.0.0.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.300 10.0.0.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.\xff 10.0.0.1 4711 443\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 443\r\n",
    b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
    SIGNATURE,
    SIGNATURE[:5],
    v2(0x11, TCP4 + PORTS)[:-1],
    v2(0x11, TCP4),
    v2(0x21, TCP4 + PORTS),
    v2(0x11, TCP4 + PORTS, version_and_command=0x11),
    v2(0x11, TCP4 + PORTS, version_and_command=0x22),
    v2(0x11, TCP4 + PORTS + bytes(MAX_HEADER_BYTES)),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
def test_headers_name_the_client(header: bytes, client: str):
    """A header of either version is as long as it is, and names the client; what follows is not read."""
    assert parse_header(header) == (len(header), client)
    assert parse_header(header + REQUEST) == (len(header), client)


@pytest.mark.parametrize("start", MALFORMED)
def test_malformed_headers_are_refused(start: bytes):
    """A header that is malformed, incomplete or too long is an error; twins are in the table above."""
    with pytest.raises(ProxyHeaderError):
        parse_header(start)


@pytest.mark.parametrize(
    "start", [b"", REQUEST, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00"]
)
def test_connections_without_a_header(start: bytes):
    """HTTP/1.1, HTTP/2 and TLS do not begin like a header."""
    assert parse_header(start) == (0, "")


async def exchange(harness: GatewayHarness, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Send *sent* to the gateway from *host*; return what it answers until it closes."""
    port = int(harness.url.rpartition(":")[2])
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
        writer.write(sent)
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize(("header", "client"), HEADERS[:6])
async def test_trusted_proxy_names_the_client(header: bytes, client: str):
    """Services get the address that a trusted proxy names, or the proxy's own; without a header as well."""
    async with running_gateway(
        gateway_trusted_proxies="127.0.0.1/32", gateway_proxy_protocol=True
    ) as harness:
        assert (await exchange(harness, header + REQUEST)).startswith(b"HTTP/1.1 200")
        assert (await exchange(harness, REQUEST)).startswith(b"HTTP/1.1 200")
        addresses = [metadata["x-forwarded-for"] for metadata in harness.jobs.metadata]
        assert addresses == [client or "127.0.0.1", "127.0.0.1"]


async def test_websockets_of_a_proxy():
    """A WebSocket that a proxy passes on is of the client, too."""
    async with running_gateway(
        gateway_trusted_proxies="127.0.0.1/32", gateway_proxy_protocol=True
    ) as harness:
        port = int(harness.url.rpartition(":")[2])
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEADERS[0][0] + WEBSOCKET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 101")
            while not harness.jobs.metadata:  # noqa: ASYNC110 - the fake has no Event
                await asyncio.sleep(0.01)
            writer.close()
        assert harness.jobs.metadata[0]["x-forwarded-for"] == HEADERS[0][1]


@pytest.mark.parametrize("header", [HEADERS[0][0], HEADERS[4][0]])
async def test_header_from_elsewhere_closes_the_connection(header: bytes):
    """A header is refused from others than the proxies, and from all without the setting; twin: no header."""
    for settings in ({"gateway_proxy_protocol": True}, {}):
        async with running_gateway(gateway_trusted_proxies="10.0.0.0/8,127.0.0.9/32", **settings) as harness:
            assert not (await exchange(harness, header + REQUEST)).startswith(b"HTTP/1.1 200")
            assert harness.jobs.metadata == []
            assert (await exchange(harness, REQUEST)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("header", [MALFORMED[2], MALFORMED[8], MALFORMED[17], MALFORMED[-1]])
async def test_malformed_header_of_a_proxy_closes_the_connection(header: bytes):
    """A proxy that sends a malformed header gets no answer."""
    async with running_gateway(
        gateway_trusted_proxies="127.0.0.1/32", gateway_proxy_protocol=True
    ) as harness:
        assert await exchange(harness, header) == b""
        assert harness.jobs.metadata == []


async def test_header_comes_before_tls(tmp_path: Path):
    """With TLS the header comes before the handshake; one from elsewhere ends the handshake."""
    authority = Authority()
    files = authority.issue(tmp_path / "gateway", "127.0.0.1")
    trust = ssl.create_default_context(cadata=authority.pem.decode())
    async with running_gateway(
        gateway_trusted_proxies="127.0.0.1/32",
        gateway_proxy_protocol=True,
        gateway_tls_certificate=files.certificate,
        gateway_tls_key=files.key,
    ) as harness:
        port = int(harness.url.rpartition(":")[2])
        for host, header, is_served in (
            ("127.0.0.1", HEADERS[0][0], True),
            ("127.0.0.1", b"", True),
            ("127.0.0.5", b"", True),
            ("127.0.0.5", HEADERS[0][0], False),
        ):
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
                writer.write(header)
                try:
                    await writer.start_tls(trust, server_hostname="127.0.0.1")
                except (ssl.SSLError, ConnectionError):
                    assert not is_served
                    continue
                writer.write(REQUEST)
                response = await reader.read()
                writer.close()
            assert is_served
            assert json.loads(response.partition(b"\r\n\r\n")[2])["name"] == "jobs/018f"
        addresses = [metadata["x-forwarded-for"] for metadata in harness.jobs.metadata]
        assert addresses == ["192.0.2.7", "127.0.0.1", "127.0.0.5"]


def test_protocol_needs_proxies():
    """The setting is refused without the networks of the proxies."""
    with pytest.raises(ValidationError, match="REELHAUL_GATEWAY_TRUSTED_PROXIES is not set"):
        Settings(gateway_proxy_protocol=True)
    assert Settings(gateway_proxy_protocol=True, gateway_trusted_proxies="10.0.0.0/8").gateway_proxy_protocol
