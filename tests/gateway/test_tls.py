"""TLS: certificates, their replacement while connections are open, and limits of handshakes."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trustme
from tests.gateway.fake_services import GatewayHarness, running_gateway

from reelhaul_gateway.settings import Settings
from reelhaul_runtime import certificate
from reelhaul_runtime.up import probes

REQUEST = b"GET /v1/jobs/018f HTTP/1.1\r\nHost: localhost\r\n\r\n"
SECONDS = 20


class Files:
    """The certificate file and key file of a gateway, by authorities that come and go."""

    def __init__(self, folder: Path) -> None:
        self.settings = {
            "gateway_tls_certificate": folder / "certificate.pem",
            "gateway_tls_key": folder / "key.pem",
        }

    def write(self) -> ssl.SSLContext:
        """Replace the pair by one of a new authority; return the context of clients that trust only that."""
        authority = trustme.CA()
        pair = authority.issue_cert("localhost", "127.0.0.1")
        certificate_file, key_file = self.settings.values()
        certificate_file.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        key_file.write_bytes(pair.private_key_pem.bytes())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of a gateway, not written yet."""
    return Files(tmp_path)


@pytest.fixture
def trust(files: Files) -> ssl.SSLContext:
    """The context of clients that trust the gateway's first certificate."""
    return files.write()


@pytest.fixture
async def harness(files: Files, trust: ssl.SSLContext) -> AsyncIterator[GatewayHarness]:
    """A gateway with TLS, and its fake services."""
    async with running_gateway(**files.settings) as running:
        yield running


async def connect(
    harness: GatewayHarness, trust: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to the gateway."""
    return await asyncio.open_connection(*harness.address, ssl=trust, server_hostname="localhost")


async def get_status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Send a request on a connection; return the status of its response, which is read."""
    writer.write(REQUEST)
    async with asyncio.timeout(SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
    return int(head.split()[1])


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_gateway_serves_https(harness: GatewayHarness, trust: ssl.SSLContext, version: str):
    """Clients that trust the certificate are served; plain HTTP is not, and the supervisor finds it alive."""
    url = harness.url.replace("http:", "https:")
    async with httpx.AsyncClient(
        base_url=url, verify=trust, http2=version == "HTTP/2", trust_env=False
    ) as client:
        response = await client.get("/v1/jobs/018f")
        assert (response.status_code, response.http_version) == (200, version)
        assert response.headers["strict-transport-security"] == "max-age=31536000"
        own = {"origin": url, "sec-fetch-site": "same-origin"}
        assert (await client.post("/v1/jobs", json={}, headers=own)).status_code == 200
        assert (await client.post("/v1/jobs", json={"url": "x" * 2_000_000})).status_code == 200
    async with httpx.AsyncClient(base_url=harness.url, trust_env=False) as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get("/v1/jobs/018f")
    assert await probes.is_ready(url, "")
    assert not await probes.is_alive(harness.url) or not await probes.is_ready(harness.url, "")


@pytest.mark.parametrize(
    ("ciphers", "is_accepted"),
    [("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA", False)],
)
async def test_tls_12_needs_modern_ciphers(
    harness: GatewayHarness, trust: ssl.SSLContext, ciphers: str, is_accepted: bool
):
    """Clients with TLS 1.2 must offer a cipher with authenticated encryption."""
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    trust.set_ciphers(ciphers)
    if is_accepted:
        reader, writer = await connect(harness, trust)
        assert await get_status(reader, writer) == 200
        writer.close()
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(harness, trust)


async def test_certificate_is_replaced_while_connections_are_open(
    harness: GatewayHarness, files: Files, trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
):
    """New files apply to new connections, and earlier ones go on; damaged files replace nothing."""
    caplog.set_level(logging.INFO)
    reader, writer = await connect(harness, trust)
    key = files.settings["gateway_tls_key"]
    key.write_text("-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n")
    await _wait_for_message(caplog, "the earlier TLS certificate stays in use")
    assert str(key) in caplog.text
    other_reader, other_writer = await connect(harness, trust)
    assert await get_status(other_reader, other_writer) == 200
    other_writer.close()
    new_trust = files.write()
    await _wait_for_message(caplog, "replaced the TLS certificate")
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(harness, trust)
    other_reader, other_writer = await connect(harness, new_trust)
    assert await get_status(other_reader, other_writer) == 200
    assert await get_status(reader, writer) == 200
    other_writer.close()
    writer.close()


async def test_silent_handshakes_are_bounded(files: Files, trust: ssl.SSLContext):
    """Handshakes count as connections: they give way to new ones, and end after the time for a head."""
    async with (
        running_gateway(**files.settings, gateway_head_seconds=2, gateway_max_connections=10) as harness,
        AsyncExitStack() as stack,
    ):
        silent = []
        for _ in range(30):
            reader, writer = await asyncio.open_connection(*harness.address)
            stack.callback(writer.close)
            writer.write(b"\x16\x03\x01")
            silent.append(reader)
        served_reader, served_writer = await connect(harness, trust)
        stack.callback(served_writer.close)
        assert await get_status(served_reader, served_writer) == 200
        async with asyncio.timeout(SECONDS):
            for reader in silent:
                assert await reader.read() == b""


async def test_overloaded_gateway_answers_over_tls(files: Files, trust: ssl.SSLContext):
    """With all connections busy, a further one gets 503, and health checks are answered."""
    async with (
        running_gateway(**files.settings, gateway_max_connections=1) as harness,
        AsyncExitStack() as stack,
    ):
        busy_reader, busy_writer = await connect(harness, trust)
        stack.callback(busy_writer.close)
        busy_writer.write(b"GET /v1/jobs/endless:watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(SECONDS):
            assert (await busy_reader.readline()).split()[1] == b"200"
        more_reader, more_writer = await connect(harness, trust)
        stack.callback(more_writer.close)
        assert await get_status(more_reader, more_writer) == 503
        assert await probes.is_ready(harness.url.replace("http:", "https:"), "")


def test_wrong_certificates_are_refused(files: Files, tmp_path: Path):
    """Settings whose files do not belong together, or are missing, name the setting and the file."""
    files.write()
    (text := tmp_path / "notes.txt").write_text("no certificate")
    certificate, key = files.settings.values()
    Settings(gateway_tls_certificate=certificate, gateway_tls_key=key)
    for changed, setting in (
        ({"gateway_tls_key": None}, "REELHAUL_GATEWAY_TLS_KEY is not set"),
        ({"gateway_tls_certificate": None}, "REELHAUL_GATEWAY_TLS_CERTIFICATE is not set"),
        ({"gateway_tls_key": certificate}, f"REELHAUL_GATEWAY_TLS_KEY: {certificate} has no private key"),
        ({"gateway_tls_certificate": text}, f"REELHAUL_GATEWAY_TLS_CERTIFICATE: {text} has no certificate"),
        ({"gateway_tls_key": "none.pem"}, "REELHAUL_GATEWAY_TLS_KEY: none.pem cannot be read"),
    ):
        with pytest.raises(ValueError, match=setting):
            Settings(**{**files.settings, **changed})
    old_key = key.read_bytes()
    files.write()
    key.write_bytes(old_key)
    with pytest.raises(ValueError, match=f"REELHAUL_GATEWAY_TLS_KEY: the key in {key} is not that of"):
        Settings(**files.settings)


def test_certificate_that_disappears_while_it_is_loaded_is_refused(
    files: Files, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
):
    """Files that are removed between the check and the load are an error that the watch survives."""
    check_content = certificate._check_content

    def check_and_remove(path: Path, mark: bytes, what: str) -> None:
        check_content(path, mark, what)
        path.unlink()

    monkeypatch.setattr(certificate, "_check_content", check_and_remove)
    with pytest.raises(certificate.CertificateError, match="cannot be read: No such file"):
        certificate.load_context(*files.settings.values())


async def _wait_for_message(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(SECONDS):
        while text not in caplog.text:  # noqa: ASYNC110 - a log has no Event
            await asyncio.sleep(0.05)
