"""The suite with certificates: its services prove themselves to each other, also while these are replaced."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
import websockets
from tests.servers import running_nats_with
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end, wait_until_downloading
from tests.suite.suite import Suite, running_suite
from tests.tls_files import SERVICE_NAME, Authority
from websockets.sync.client import connect

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.private_files import KEY_FILE, RUN_FOLDER
from reelhaul_runtime.rpc import credentials

SERVICES = ("jobs", "fetcher", "storage")
_LEASES = lease_service_pb2_grpc.LeaseServiceStub
_REQUESTS_AFTER_REPLACEMENT = 50


# The broker asks for certificates, too.
_NATS_CONFIG = """\
tls {{ cert_file: "{files.certificate}", key_file: "{files.key}", ca_file: "{files.ca}", verify: true }}
authorization {{ user: reelhaul, password: "{password}" }}
jetstream {{ store_dir: "{folder}/jetstream" }}
"""
_PASSWORD = "the-password-of-the-broker"


@contextlib.contextmanager
def suite_with_certificates(folder: Path, files: TlsFiles, nats_port: int) -> Iterator[Suite]:
    """Run a suite with keys and *files*, also for the broker at *nats_port*; its client has the first key."""
    settings = {
        "nats_url": f"tls://reelhaul:{_PASSWORD}@127.0.0.1:{nats_port}",
        "nats_ca": str(files.ca),
        "nats_certificate": str(files.certificate),
        "nats_key": str(files.key),
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        "tls_ca": str(files.ca),
        "tls_service_name": files.service_name,
    }
    with running_suite(folder, auth="keys", **settings) as suite:
        suite.http.headers["authorization"] = f"Bearer {first_key(suite)}"
        yield suite


def first_key(suite: Suite) -> str:
    """Return the key that the suite has created."""
    return (suite.data_dir / RUN_FOLDER / KEY_FILE).read_text().strip()


def list_jobs(suite: Suite, files: TlsFiles | None, metadata: dict[str, str]) -> str:
    """List jobs over gRPC; return the name of the status."""
    address = suite.address("jobs")
    if files is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(
            address, credentials.channel_credentials(files.read()), credentials.name_options(files)
        )
    with channel:
        try:
            job_service_pb2_grpc.JobServiceStub(channel).ListJobs(
                job_service_pb2.ListJobsRequest(), timeout=20, metadata=tuple(metadata.items())
            )
            _LEASES(channel).Claim(
                lease_service_pb2.ClaimRequest(), timeout=20, metadata=tuple(metadata.items())
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def certificate_of(address: str, files: TlsFiles) -> bytes:
    """Return the certificate that the server at *address* presents to a client with *files*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(str(files.certificate), files.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname=files.service_name) as tls,
    ):
        # With TLS 1.3 a server refuses a client after the handshake has succeeded for that client.
        if not tls.recv(1):
            raise ConnectionError("the server closed the connection")
        return tls.getpeercert(binary_form=True) or b""


class Load:
    """Requests in a thread, one after the other, that must all succeed."""

    def __init__(self, suite: Suite) -> None:
        self.count, self.failure = 0, ""
        self._suite, self._stop = suite, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        headers = self._suite.http.headers
        with httpx.Client(base_url=self._suite.http.base_url, headers=headers, trust_env=False) as client:
            while not self._stop.is_set() and not self.failure:
                response = client.get("/v1/jobs", timeout=30)
                self.count += 1
                if response.status_code != 200:
                    self.failure = response.text


def test_suite_with_certificates(tmp_path: Path, site: Site):
    """Downloads work over mTLS; strangers are refused, and new certificates drop no call and no download."""
    old, new, other = Authority(), Authority(), Authority()
    both = old.pem + new.pem
    files = old.issue(tmp_path / "service", SERVICE_NAME, authorities=both)
    client = old.issue(tmp_path / "client", "client.example")
    stranger = other.issue(tmp_path / "stranger", SERVICE_NAME, authorities=both)
    broker = old.issue(tmp_path / "broker", "127.0.0.1")
    config = _NATS_CONFIG.format(files=broker, password=_PASSWORD, folder=tmp_path)
    with (
        running_nats_with(tmp_path, config) as nats_port,
        suite_with_certificates(tmp_path / "data", files, nats_port) as suite,
    ):
        key = {"x-api-key": first_key(suite)}
        token = {"x-reelhaul-suite-token": (suite.data_dir / RUN_FOLDER / "suite-token").read_text().strip()}
        for certificate, metadata, status in (
            (client, key, "PERMISSION_DENIED"),  # ListJobs works; Claim is for services
            (client, token, "UNAUTHENTICATED"),
            (files, {}, "UNAUTHENTICATED"),
            (files, token | {"x-reelhaul-forwarded": "1"}, "UNAUTHENTICATED"),
            (stranger, key | token, "UNAVAILABLE"),
            (None, key | token, "UNAVAILABLE"),
        ):
            assert list_jobs(suite, certificate, metadata) == status, (certificate, status)
        # The gateway redeems the ticket at jobs, which knows no such job.
        assert _watch_by_ticket(suite) == 4404
        for name in SERVICES:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                certificate_of(suite.address(name), stranger)
        _replace_certificates(suite, site, new, tmp_path / "service", both)


def _watch_by_ticket(suite: Suite) -> int:
    """Watch an unknown job over a WebSocket by a ticket; return the code of its end."""
    ticket = suite.http.post("/v1/tickets", json={}).raise_for_status().json()["ticket"]
    url = str(suite.http.base_url).replace("http", "ws").rstrip("/")
    protocols = [websockets.Subprotocol("reelhaul.v1"), websockets.Subprotocol(f"reelhaul.ticket.{ticket}")]
    job = "01a22b90-d5e3-77f1-a1a5-fc8fd44b660a"
    with connect(f"{url}/v1/jobs/{job}:watch", subprotocols=protocols, proxy=None) as websocket:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                websocket.recv(timeout=20)
        return int(websocket.close_code or 0)


def _replace_certificates(suite: Suite, site: Site, new: Authority, folder: Path, both: bytes) -> None:
    """Replace the certificates of a running suite under load; nothing fails."""
    processes = suite.processes()
    job = create_download(suite, site.url("/watch/demo?media.rate=1000000"))
    wait_until_downloading(suite, job, 1)
    with Load(suite) as load:
        files = new.issue(folder, SERVICE_NAME, authorities=both)
        expected = ssl.PEM_cert_to_DER_cert(files.read().certificate.decode())
        for name in SERVICES:
            suite.wait_for(
                f"new certificate of {name}",
                lambda name=name: certificate_of(suite.address(name), files) == expected,
            )
        count = load.count
        suite.wait_for("requests", lambda: load.failure or load.count > count + _REQUESTS_AFTER_REPLACEMENT)
    assert load.failure == ""
    assert "completed" in wait_for_end(suite, job)
    assert suite.processes() == processes
