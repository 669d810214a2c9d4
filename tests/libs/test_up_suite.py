"""``reelhaul up`` from the command line: a real nats-server and four small services.

The services have the real names: each serves its proto service with health, connects to NATS, and
returns its environment over gRPC.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime.up import procfs

_SERVICES = """
import asyncio, os, sys
from contextlib import AsyncExitStack, asynccontextmanager
from reelhaul.jobs.v1 import job_pb2, job_service_pb2_grpc
from reelhaul_runtime import nats_client
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.service import Service
from reelhaul_runtime.settings import SuiteSettings

class Jobs(job_service_pb2_grpc.JobServiceServicer):
    async def GetJob(self, request, context):
        return job_pb2.Job(name=os.environ[request.name])

def over_grpc(name, proto):
    @asynccontextmanager
    async def running():
        settings = SuiteSettings()
        add = job_service_pb2_grpc.add_JobServiceServicer_to_server
        servicers = [(add, Jobs(), proto)]
        address = getattr(settings, name + "_address")
        async with AsyncExitStack() as stack:
            checks = {}
            if settings.nats_url:
                client = await stack.enter_async_context(nats_client.connect(settings.nats_url, name))
                checks[name + ".nats"] = client.flush
            authenticator = NoAuthentication(settings.suite_token)
            yield await stack.enter_async_context(
                serving(
                    address,
                    servicers,
                    authenticator=authenticator,
                    checks=checks,
                    drain_seconds=1,
                    reuse_port=settings.reuse_port,
                )
            )
    return running

@asynccontextmanager
async def over_http():
    async def respond(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
        writer.close()
    host, port = SuiteSettings().gateway_address.split(":")
    async with await asyncio.start_server(respond, host, int(port), reuse_port=True):
        yield

storage = Service("storage", running=over_grpc("storage", "reelhaul.storage.v1.StorageService"))
jobs = Service("jobs", running=over_grpc("jobs", "reelhaul.jobs.v1.JobService"))
fetcher = Service("fetcher", running=over_grpc("fetcher", "reelhaul.fetcher.v1.FetcherService"))
gateway = Service("gateway", running=over_http)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of a suite of small services on free ports."""
    folder = tmp_path / "installed"
    info = folder / "small_suite-1.dist-info"
    info.mkdir(parents=True)
    (folder / "small_suite_services.py").write_text(_SERVICES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-suite\nVersion: 1\n")
    names = ("storage", "jobs", "fetcher", "gateway")
    entries = "".join(f"{name} = small_suite_services:{name}\n" for name in names)
    (info / "entry_points.txt").write_text("[reelhaul.services]\n" + entries)
    addresses = {f"REELHAUL_{name.upper()}_ADDRESS": "127.0.0.1:0" for name in (*names, "storage_http")}
    addresses |= {f"REELHAUL_{name.upper()}_METRICS_ADDRESS": "127.0.0.1:0" for name in names}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    own = {"PYTHONPATH": path, "REELHAUL_AUTH": "none", "REELHAUL_DATA_DIR": str(tmp_path / "data")}
    return inherited | addresses | own


@pytest.fixture
def up(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A suite that is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reelhaul_runtime", "up"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Reelhaul is ready in "), line
    yield process
    process.terminate()
    try:
        process.wait(20)
    finally:
        process.kill()
        process.communicate()


def read_state(environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return suite.json."""
    state: dict[str, dict[str, str]] = json.loads(
        (Path(environment["REELHAUL_DATA_DIR"]) / "run" / "suite.json").read_text()
    )
    return state


def get_variable(address: str, name: str) -> str:
    """Return the environment variable *name* of the service at *address*."""
    with grpc.insecure_channel(address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        value: str = stub.GetJob(job_service_pb2.GetJobRequest(name=name), timeout=5).name
    return value


def test_whole_suite(up: subprocess.Popen[str], environment: dict[str, str]):
    """One command starts nats-server and the services, with each other's addresses and one token."""
    state = read_state(environment)
    assert list(state["processes"]) == ["nats", "storage", "jobs", "fetcher", "gateway"]
    jobs, storage = state["addresses"]["jobs"], state["addresses"]["storage"]
    assert get_variable(jobs, "REELHAUL_STORAGE_ADDRESS") == storage
    assert get_variable(storage, "REELHAUL_STORAGE_HTTP_ADDRESS") not in (storage, "127.0.0.1:0")
    assert get_variable(jobs, "REELHAUL_NATS_URL") == state["addresses"]["nats"]
    token = get_variable(jobs, "REELHAUL_SUITE_TOKEN")
    assert token == get_variable(storage, "REELHAUL_SUITE_TOKEN")
    assert token == (Path(environment["REELHAUL_DATA_DIR"]) / "run" / "suite-token").read_text().strip()


def test_services_are_forks_with_settings_of_their_own(
    up: subprocess.Popen[str], environment: dict[str, str]
):
    """Services share the memory of their imports, and none has the settings of another one."""
    pids = {name: int(pid) for name, pid in read_state(environment)["processes"].items()}
    assert sorted(procfs.children(up.pid)) == sorted(pids.values())
    del pids["nats"]
    for name, pid in pids.items():
        folder = Path(f"/proc/{pid}")
        command = folder.joinpath("cmdline").read_bytes().rstrip(b"\0")
        assert command.endswith(f"\0serve\0{name}".encode())
        # They read their settings after the fork.
        assert b"REELHAUL_" not in folder.joinpath("environ").read_bytes()
        descriptors = [os.readlink(each) for each in folder.joinpath("fd").iterdir()]
        assert not [each for each in descriptors if "environment" in each]


def test_status_of_the_whole_suite(up: subprocess.Popen[str], environment: dict[str, str]):
    """--status finds all processes serving, and what does not work although they serve."""
    result = subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", "up", "--status", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    status = json.loads(result.stdout)
    rows = status["services"]
    assert [(row["service"], row["state"]) for row in rows] == [
        (name, "SERVING") for name in ("nats", "storage", "jobs", "fetcher", "gateway", "up")
    ]
    components = status["health"]["components"]
    down = [each for each in components if each.get("status") == "SERVING_STATUS_NOT_SERVING"]
    assert [each["component"] for each in down] == ["storage.write"], "these services store nothing"
    assert "look at storage.backend" in down[0]["remedy"]
    assert result.returncode == 1


@pytest.mark.parametrize("name", ["nats", "jobs"])
def test_killed_process_is_restarted(up: subprocess.Popen[str], environment: dict[str, str], name: str):
    """After kill -9 of the broker or of a service both serve again at their old addresses."""
    before = read_state(environment)
    os.kill(int(before["processes"][name]), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while True:
        now = read_state(environment)
        if now["processes"].get(name, before["processes"][name]) != before["processes"][name]:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert now["addresses"] == before["addresses"]
    with grpc.insecure_channel(now["addresses"]["jobs"]) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)


def test_two_suites(up: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path):
    """Two suites on two data folders run side by side."""
    other = environment | {"REELHAUL_DATA_DIR": str(tmp_path / "other")}
    with subprocess.Popen(
        [sys.executable, "-m", "reelhaul_runtime", "up"],
        env=other,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as second:
        assert second.stdout is not None
        assert second.stdout.readline().startswith("Reelhaul is ready in ")
        assert read_state(other)["addresses"]["nats"] != read_state(environment)["addresses"]["nats"]
        second.terminate()
    assert second.returncode == 0
