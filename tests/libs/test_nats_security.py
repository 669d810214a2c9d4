"""TLS and credentials of the broker: whom it accepts, and what a client sends to whom."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from tests.servers import running_nats_with
from tests.tls_files import Authority

from reelhaul_runtime import nats_client
from reelhaul_runtime.nats_security import NO_FILES, NatsSecurity
from reelhaul_runtime.settings import InvalidSetting, SuiteSettings

SECRET = "hunter2-hunter2"
SECONDS = 20
# https://pkg.go.dev/github.com/nats-io/nkeys: the first byte of each kind of public key, and that of a seed.
_OPERATOR, _ACCOUNT, _USER, _SEED = 14 << 3, 0, 20 << 3, 18 << 3


async def publish(url: str, security: NatsSecurity = NO_FILES) -> bool:
    """Return whether a message that is sent to the broker at *url* comes back."""
    async with asyncio.timeout(SECONDS), nats_client.connect(url, "test", security=security) as client:
        subscription = await client.subscribe("subject")
        await client.publish("subject", b"message")
        return (await subscription.next_msg(timeout=SECONDS)).data == b"message"


async def get_refusal(caplog: pytest.LogCaptureFixture, url: str, security: NatsSecurity = NO_FILES) -> str:
    """Return why nothing can be sent to the broker at *url*: the first logged cause, or the failure."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "reelhaul_runtime.nats_client"):
        publishing = asyncio.create_task(publish(url, security))
        async with asyncio.timeout(SECONDS):
            while not (causes := [record.cause for record in caplog.records if hasattr(record, "cause")]):
                if publishing.done():
                    return repr(publishing.exception())
                await asyncio.sleep(0.01)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    return str(causes[0])


async def test_broker_with_tls_and_certificates(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A broker with TLS accepts clients with its password and a certificate; both ends check the other's."""
    authority, other = Authority(), Authority()
    broker = authority.issue(tmp_path / "broker", "127.0.0.1")
    client = NatsSecurity(replace(authority.issue(tmp_path / "client", "jobs"), service_name=""))
    stranger = NatsSecurity(other.issue(tmp_path / "stranger", "jobs", authorities=authority.pem))
    distrustful = NatsSecurity(other.issue(tmp_path / "distrustful", "jobs"))
    config = (
        f'tls {{ cert_file: "{broker.certificate}", key_file: "{broker.key}", ca_file: "{broker.ca}",'
        f' verify: true }}\nauthorization {{ user: reelhaul, password: "{SECRET}" }}\n'
    )
    with running_nats_with(tmp_path, config) as port:
        url = f"tls://reelhaul:{SECRET}@127.0.0.1:{port}"
        assert await publish(url, client)
        # With TLS 1.3 a broker refuses a client after the handshake has succeeded for that client.
        assert await get_refusal(caplog, url, stranger) != "None"
        for wrong_url, security, cause in (
            (url, distrustful, "CERTIFICATE_VERIFY_FAILED"),
            (url.replace("127.0.0.1", "localhost"), client, "Hostname mismatch"),
            (url.replace(SECRET, "another"), client, "Authorization Violation"),
            (url.replace("tls://", "nats://"), client, "CERTIFICATE_VERIFY_FAILED"),
        ):
            assert cause in await get_refusal(caplog, wrong_url, security)
            assert SECRET not in caplog.text


@pytest.mark.parametrize("credential", [f"reelhaul:{SECRET}@", f"{SECRET}@", ""])
async def test_nothing_is_sent_without_tls(credential: str, caplog: pytest.LogCaptureFixture):
    """A broker that pretends to have no TLS gets nothing from a client whose URL says TLS; twin: nats://."""
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1024,"auth_required":true}\r\n')
        await received.put(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "offers no TLS" in await get_refusal(caplog, f"tls://{credential}127.0.0.1:{port}")
        assert await received.get() == b""
        await get_refusal(caplog, f"nats://{credential}127.0.0.1:{port}")
        assert (await received.get()).startswith(b"CONNECT")


async def test_certificate_of_a_client_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A client uses new files when it connects again, without a restart."""
    authority = Authority()
    client = authority.issue(tmp_path / "client", "jobs")
    used: asyncio.Queue[str] = asyncio.Queue()
    broker = authority.issue(tmp_path / "broker", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(broker.ca))
    context.load_cert_chain(str(broker.certificate), broker.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1024,"tls_required":true}\r\n')
        await writer.start_tls(context)
        (names,) = writer.get_extra_info("peercert")["subjectAltName"]
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await used.put(names[1])
        await replaced.wait()
        writer.close()

    replaced = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with caplog.at_level(logging.INFO):
            async with asyncio.timeout(20), nats_client.connect(url, "test", security=NatsSecurity(client)):
                assert await used.get() == "jobs"
                authority.issue(tmp_path / "client", "jobs-2")
                while "replaced the TLS certificate" not in caplog.text:  # noqa: ASYNC110 - a log has no Event
                    await asyncio.sleep(0.05)
                replaced.set()
                assert await used.get() == "jobs-2"


class Nkey:
    """A key of NATS, whose text has its kind and a checksum."""

    def __init__(self, kind: int) -> None:
        self._kind, self._key = kind, Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        """Its public key."""
        return _encode(bytes([self._kind]) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """Its seed."""
        prefix = bytes([_SEED | self._kind >> 5, (self._kind & 31) << 3])
        return _encode(prefix + self._key.private_bytes_raw())

    def sign_jwt(self, subject: str, kind: str) -> str:
        """Return a JWT that says of the key *subject* that it is of *kind*."""
        claims = {"jti": subject, "iat": 1, "iss": self.public, "sub": subject, "name": kind}
        limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
        claims["nats"] = {"type": kind, "version": 2, **({"limits": limits} if kind == "account" else {})}
        if kind == "user":
            claims["nats"] |= {"subs": -1, "data": -1, "payload": -1}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
        body = b".".join(_base64url(json.dumps(part).encode()) for part in parts)
        return (body + b"." + _base64url(self._key.sign(body))).decode()


def _encode(data: bytes) -> str:
    data += binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(data).decode().rstrip("=")


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def test_broker_with_users_by_jwt(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A broker whose users have a JWT and a seed accepts the file of one; another's seed is refused."""
    operator, account, user, other = Nkey(_OPERATOR), Nkey(_ACCOUNT), Nkey(_USER), Nkey(_USER)
    config = (
        f"operator: {operator.sign_jwt(operator.public, 'operator')}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {operator.sign_jwt(account.public, 'account')} }}\n"
    )

    def write(name: str, seed: str) -> NatsSecurity:
        jwt = account.sign_jwt(user.public, "user")
        file = tmp_path / name
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        return NatsSecurity(credentials=file)

    with running_nats_with(tmp_path, config) as port:
        url = f"nats://127.0.0.1:{port}"
        assert await publish(url, write("user.creds", user.seed))
        assert "Authorization Violation" in await get_refusal(caplog, url, write("other.creds", other.seed))
        assert "Authorization Violation" in await get_refusal(caplog, url)
        for seed in (account.seed, user.seed[:-1], ""):
            with pytest.raises(InvalidSetting, match=r"REELHAUL_NATS_CREDENTIALS: .* has no JWT and seed"):
                await publish(url, write("wrong.creds", seed))
    assert user.seed not in caplog.text


def test_files_need_a_broker_with_tls(tmp_path: Path):
    """Files for TLS are refused with a URL that does not ask for it; twin: one that does."""
    files = Authority().issue(tmp_path / "client", "jobs")
    pair = {"nats_certificate": files.certificate, "nats_key": files.key}
    for settings in ({"nats_ca": files.ca}, pair):
        assert SuiteSettings(nats_url="tls://127.0.0.1", **settings).nats_security.tls.all
        with pytest.raises(ValidationError, match="REELHAUL_NATS_URL must begin with tls://"):
            SuiteSettings(nats_url="nats://127.0.0.1", **settings)
    with pytest.raises(ValidationError, match="REELHAUL_NATS_KEY is not set"):
        SuiteSettings(nats_url="tls://127.0.0.1", nats_certificate=files.certificate)
