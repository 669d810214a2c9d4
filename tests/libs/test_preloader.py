"""The preloader: what it imports, and the processes that it becomes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelhaul_runtime.up import preloader, process, procfs
from reelhaul_runtime.up.preloader_process import PreloaderGone, open_preloader

_SERVICES = ("fetcher", "gateway", "jobs", "storage")
_TIMEOUT = 60.0


def _run_python(code: str) -> dict[str, list[str]]:
    output = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=_TIMEOUT
    ).stdout
    result: dict[str, list[str]] = json.loads(output)
    return result


def test_nothing_of_a_service_is_preloaded():
    """A fork has one thread, and of the services their settings: so it serves its own metrics alone."""
    found = _run_python(
        "import json, os, sys\n"
        "from reelhaul_runtime.up import preloader\n"
        "preloader.import_shared_by_all()\n"
        "preloader.import_modules(preloader.SHARED_BY_DATABASES)\n"
        "print(json.dumps({'modules': list(sys.modules), 'threads': os.listdir('/proc/self/task')}))"
    )
    assert len(found["threads"]) == 1
    assert set(found["modules"]) >= {*preloader.SHARED_BY_ALL, *preloader.SHARED_BY_DATABASES}
    for name in _SERVICES:
        assert f"reelhaul_{name}.settings" in found["modules"]
        assert f"reelhaul_{name}.app" not in found["modules"]
        assert f"reelhaul_{name}.metrics" not in found["modules"]


@pytest.mark.parametrize(
    ("modules", "services"),
    [(preloader.SHARED_BY_ALL, _SERVICES), (preloader.SHARED_BY_DATABASES, ("jobs", "storage"))],
)
def test_services_use_what_is_preloaded(modules: tuple[str, ...], services: tuple[str, ...]):
    """What is preloaded is imported by at least two of the services that are forked with it."""
    loaded = [
        _run_python(
            "import json, sys\n"
            "from reelhaul_runtime import serve, service\n"
            f"service.load({name!r}); serve._loop_factory()\n"
            "print(json.dumps({'modules': list(sys.modules)}))"
        )["modules"]
        for name in services
    ]
    users = {module: sum(module in each for each in loaded) for module in modules}
    assert [module for module, count in users.items() if count < 2] == []


def test_the_supervisor_stays_small():
    """The supervisor imports neither settings nor gRPC nor the command line, which would take 16 MB."""
    modules = _run_python(
        "import json, sys\n"
        "import reelhaul_runtime.up.__main__\n"
        "print(json.dumps({'modules': list(sys.modules)}))"
    )["modules"]
    heavy = {"click", "google.protobuf", "grpc", "httpx", "pydantic", "prometheus_client", "sqlalchemy"}
    assert heavy.intersection(modules) == set()


@pytest.fixture
def subreaper() -> Iterator[None]:
    """During the test this process adopts orphans, as the supervisor does."""
    process.become_subreaper()
    yield
    ctypes.CDLL(None).prctl(process.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def test_a_fork_is_a_child_of_its_own(tmp_path: Path, subreaper: None):
    """A service that is forked is a child of the supervisor, in a session of its own, with its settings."""
    lines: list[bytes] = []
    with open_preloader() as forks:
        # It refuses a setting, and therefore needs no more than itself.
        settings = {
            "REELHAUL_DATA_DIR": str(tmp_path),
            "REELHAUL_SUITE_TOKEN": "",
            "REELHAUL_LOG_LEVEL": "LOUD",
        }
        child = await forks.start("storage", settings, lines.append)
        assert child.pid in procfs.children(os.getpid())
        assert os.getsid(child.pid) == child.pid
        assert not forks.is_starting
        assert await child.wait() == 2
    assert any(b"REELHAUL_LOG_LEVEL" in line for line in lines)


async def test_without_a_preloader_services_are_executed(tmp_path: Path):
    """If the preloader dies, it says so, and the supervisor executes the services."""
    with open_preloader() as forks:
        os.kill(forks.pid, 9)
        with pytest.raises(PreloaderGone):
            await forks.start("storage", {}, lambda _: None)
        assert not forks.is_starting
