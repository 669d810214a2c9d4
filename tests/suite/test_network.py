"""The suite on a network: behind a reverse proxy for clients on another host, and by default on loopback."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import network_namespaces
from tests.network_namespaces import CLIENT_ADDRESS, SERVER_ADDRESS, Network, NetworkUnavailable
from tests.servers import running_process
from tests.suite.suite import Suite
from tests.suite.test_logs import read_log
from tests.tls_files import Authority

from reelhaul_runtime.addresses import unmap
from reelhaul_runtime.private_files import KEY_FILE, RUN_FOLDER

NAME = "media.example"
ROOT = Path(__file__).parents[2]
SECONDS = 60

# One site as most deployments have it, and one whose proxy says by the PROXY protocol for whom it connects.
_CADDYFILE = """\
{
	admin off
	auto_https off
}
(certificate) {
	bind ADDRESS
	tls CERTIFICATE KEY
}
https://:8443 {
	import certificate
	@grpc header Content-Type application/grpc*
	reverse_proxy @grpc h2c://ADDRESS:50051
	reverse_proxy ADDRESS:8080
}
https://:8444 {
	import certificate
	reverse_proxy ADDRESS:8080 {
		transport http {
			proxy_protocol v2
		}
	}
}
"""
_SETTINGS = {
    "auth": "keys",
    "gateway_address": f"{SERVER_ADDRESS}:8080",
    "gateway_allowed_hosts": NAME,
    "gateway_trusted_proxies": f"{SERVER_ADDRESS}/32",
    "gateway_proxy_protocol": "true",
    "jobs_address": f"{SERVER_ADDRESS}:50051",
    "fetcher_address": f"{SERVER_ADDRESS}:50052",
    "storage_address": f"{SERVER_ADDRESS}:50053",
    "storage_http_address": f"{SERVER_ADDRESS}:50055",
    **{f"{name}_metrics_address": "" for name in ("gateway", "jobs", "fetcher", "storage")},
    "fetcher_allow_networks": "127.0.0.2/32",
    "log_format": "json",
}


def test_clients_on_another_host(tmp_path: Path):
    """REST, SSE, WebSockets and gRPC work through a reverse proxy for a client on another host with a key."""
    authority = Authority()
    files = authority.issue(tmp_path / "proxy", NAME)
    assert files.ca is not None
    with ExitStack() as stack:
        try:
            network = stack.enter_context(network_namespaces.running_network())
        except NetworkUnavailable as error:
            pytest.skip(f"this platform allows no network namespaces: {error}")
        media = stack.enter_context(_running_site(network))
        log = stack.enter_context(_running_suite(network, tmp_path / "data"))
        config = _CADDYFILE.replace("CERTIFICATE", str(files.certificate)).replace("KEY", str(files.key))
        (tmp_path / "Caddyfile").write_text(config.replace("ADDRESS", SERVER_ADDRESS))
        stack.enter_context(_running_proxy(network, tmp_path))
        task = {
            "address": f"{SERVER_ADDRESS}:8443",
            "grpc_address": f"{SERVER_ADDRESS}:50051",
            "name": NAME,
            "ca": str(files.ca),
            "key": (tmp_path / "data" / RUN_FOLDER / KEY_FILE).read_text().strip(),
            "media": f"{media}/watch/demo",
        }
        results = _call(network, task)
    assert results == {
        "events": ["completed"],
        "websocket": 1000,
        "grpc": "OK",
        "grpc without TLS": "OK",
        "grpc without a key": "UNAUTHENTICATED",
        "grpc without TLS and a key": "UNAUTHENTICATED",
        "without a key": 401,
        "with a wrong key": 401,
        "with another host": 400,
        "by PROXY protocol": 200,
    }
    records = read_log(log)
    plain = {record["service"] for record in records if "pass in plain text" in record["message"]}
    assert plain == {"jobs", "fetcher", "storage"}, "all but the gateway, which has a proxy"
    requests = [record for record in records if record["message"] == "request"]
    assert {record["client"] for record in requests if record.get("path") == "/v1/jobs"} == {CLIENT_ADDRESS}
    assert any(record["request_id"] == "by-proxy-protocol" for record in requests)


def test_nothing_listens_beyond_loopback_by_default(suite: Suite):
    """With the default addresses no process of the suite can be reached from another host."""
    processes = [psutil.Process(pid) for pid in suite.processes().values()]
    processes += [child for process in processes for child in process.children(recursive=True)]
    listening = [
        unmap(ipaddress.ip_address(connection.laddr.ip))
        for process in processes
        for connection in process.net_connections("inet")
        if not connection.raddr
    ]
    assert len(listening) >= 6
    assert [str(address) for address in listening if not address.is_loopback] == []


@contextmanager
def _running_site(network: Network) -> Iterator[str]:
    """Run the media site on the server; yields its origin."""
    command = [*network.server, sys.executable, "-m", "tests.sites", "--host", "127.0.0.2"]
    with running_process(command, cwd=ROOT, stdout=subprocess.PIPE) as site:
        assert site.stdout is not None
        with site.stdout as output:
            yield output.readline().decode().split()[1]


@contextmanager
def _running_suite(network: Network, folder: Path) -> Iterator[Path]:
    """Run the suite on the server with keys; yields its log when it is ready."""
    folder.mkdir(mode=0o700)
    log = folder.parent / "suite.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    settings = _SETTINGS | {"data_dir": str(folder)}
    environment |= {f"REELHAUL_{name.upper()}": value for name, value in settings.items()}
    command = [*network.server, sys.executable, "-m", "reelhaul_runtime", "up"]
    with (
        log.open("wb") as output,
        running_process(command, cwd=folder, env=environment, stdout=output, stderr=output) as suite,
    ):
        try:
            _wait_for(suite, lambda: b"the suite is ready" in log.read_bytes(), log)
            yield log
        finally:
            # Its services have process groups of their own.
            suite.terminate()
            suite.wait(SECONDS)


@contextmanager
def _running_proxy(network: Network, folder: Path) -> Iterator[None]:
    """Run Caddy on the server with the Caddyfile in *folder*."""
    caddy = Path(sys.executable).parent / "caddy"
    command = [*network.server, str(caddy), "run", "--config", str(folder / "Caddyfile")]
    log = folder / "caddy.log"
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    with (
        log.open("wb") as output,
        running_process(command, cwd=folder, env=environment, stdout=output, stderr=output) as proxy,
    ):
        _wait_for(proxy, lambda: b"serving initial configuration" in log.read_bytes(), log)
        yield


def _wait_for(process: subprocess.Popen[bytes], is_ready: Any, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while not is_ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def _call(network: Network, task: Mapping[str, str]) -> dict[str, Any]:
    """Run *task* on the client's host; return its results."""
    command = [*network.client, sys.executable, "-m", "tests.suite.network_client"]
    process = subprocess.run(
        command, cwd=ROOT, input=json.dumps(task), capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    results: dict[str, Any] = json.loads(process.stdout)
    return results
