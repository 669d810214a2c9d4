"""``serve`` and ``migrate`` as processes, with the services of a small installed package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

_SERVICES = """
import asyncio, os, threading, warnings
from contextlib import asynccontextmanager
from pydantic_settings import BaseSettings, SettingsConfigDict
from reelhaul_runtime.service import Service

class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="REELHAUL_")
    jobs_site_limit: int = 1

def named(name):
    @asynccontextmanager
    async def running():
        Settings()
        if os.environ.get("BREAK") == name:
            raise ConnectionError("the database is gone")
        if os.environ.get("SLOW") == name:
            print(name, "starts", flush=True)
            await asyncio.sleep(60)
        if os.environ.get("NOISY") == name:
            make_noise()
        print(name, "runs", flush=True)
        try:
            # A failure in here ends the service as a whole.
            async with asyncio.TaskGroup() as group:
                if os.environ.get("FAIL") == name:
                    group.create_task(fail())
                yield
        finally:
            if os.environ.get("LINGER") == name:
                print(name, "lingers", flush=True)
                await asyncio.sleep(60)
            print(name, "ended", flush=True)
    return running

async def fail():
    await asyncio.sleep(0.05)
    raise RuntimeError("it broke later")

class Unraisable:
    def __del__(self):
        raise ValueError("nobody sees this")

def make_noise():
    warnings.warn("an old function", ResourceWarning)
    Unraisable()
    thread = threading.Thread(target=int, args=("bang",), name="a-thread")
    thread.start()
    thread.join()

one = Service("one", running=named("one"), migrate=lambda: print("one migrates", flush=True))
two = Service("two", running=named("two"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is an installed package with two services."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "small_services.py").write_text(_SERVICES)
    info = folder / "small_services-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-services\nVersion: 1\n")
    names = "[reelhaul.services]\none = small_services:one\ntwo = small_services:two\n"
    (info / "entry_points.txt").write_text(names + "gone = small_services_gone:service\n")
    return folder


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(installed: Path, tmp_path: Path):
    """Start `python -m reelhaul_runtime …`; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{installed}:{os.environ.get('PYTHONPATH', '')}"
        process = subprocess.Popen(
            [sys.executable, "-m", "reelhaul_runtime", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": path,
                "REELHAUL_DATA_DIR": str(tmp_path / "data"),
                "REELHAUL_SUITE_TOKEN": "the suite token",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_services_stop_in_reverse_order(start: Start):
    """SIGTERM ends the services of one process, the last one first, with exit code 0."""
    process = start("serve", "one", "two")
    assert [next_line(process), next_line(process)] == ["one runs", "two runs"]
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert out.splitlines() == ["two ended", "one ended"]
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_process(start: Start, number: signal.Signals):
    """A second signal ends a process that is still draining."""
    process = start("serve", "one", LINGER="one")
    assert next_line(process) == "one runs"
    process.send_signal(number)
    assert next_line(process) == "one lingers"
    process.send_signal(number)
    assert process.wait(20) == 128 + number


def test_drain_timeout(start: Start):
    """A service whose drain does not end is ended after the drain time."""
    process = start("serve", "one", LINGER="one", REELHAUL_DRAIN_SECONDS="0")
    assert next_line(process) == "one runs"
    process.terminate()
    assert process.wait(20) == -signal.SIGALRM


def test_signal_during_start(start: Start):
    """A signal while a service starts ends it and the running ones with exit code 0."""
    process = start("serve", "one", "two", SLOW="two")
    assert [next_line(process), next_line(process)] == ["one runs", "two starts"]
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert out.splitlines() == ["one ended"]
    assert process.returncode == 0


def test_failed_start(start: Start):
    """A service that cannot start logs the reason in one line; exit code 1, running services are stopped."""
    process = start("serve", "one", "two", BREAK="two")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "two could not start: the database is gone" in err
    assert err.count("\n") == 1
    assert "one ended" in out


def test_failure_of_a_running_service(start: Start):
    """A service that fails while it runs ends its process with 1, so that it is restarted."""
    process = start("serve", "one", FAIL="one")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "it broke later" in err


def test_wrong_setting_of_a_service(start: Start):
    """A setting of one service that does not parse is one line with its name; exit code 2."""
    process = start("serve", "one", REELHAUL_JOBS_SITE_LIMIT="many")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err.startswith("reelhaul: REELHAUL_JOBS_SITE_LIMIT: input should be a valid integer")
    assert err.count("\n") == 1


def test_refusal_is_json_if_the_log_is(start: Start):
    """With REELHAUL_LOG_FORMAT=json also the refusal of a setting is a line of JSON."""
    process = start("serve", "one", REELHAUL_JOBS_SITE_LIMIT="many", REELHAUL_LOG_FORMAT="json")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    (line,) = map(json.loads, err.splitlines())
    assert line["level"] == "ERROR"
    assert line["message"].startswith("REELHAUL_JOBS_SITE_LIMIT: input should be a valid integer")


def test_what_python_prints_is_json(start: Start):
    """Warnings and exceptions that nothing catches are lines of JSON too, with type and stack."""
    process = start("serve", "one", NOISY="one", FAIL="one", PYTHONWARNINGS="default")
    _, err = process.communicate(timeout=20)
    warning, unraisable, in_thread, failed = map(json.loads, err.splitlines())
    assert (warning["logger"], warning["level"]) == ("py.warnings", "WARNING")
    assert "an old function" in warning["message"]
    assert "nobody sees this" in unraisable["exception"]["stack"]
    assert (in_thread["thread_name"], in_thread["exception"]["type"]) == ("a-thread", "ValueError")
    assert "it broke later" in failed["message"]


def test_unknown_service(start: Start):
    """For a service that is not installed the installed ones are listed; exit code 2."""
    process = start("serve", "none-such")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "there is no service 'none-such'" in err
    assert "one" in err


def test_service_that_cannot_be_loaded(start: Start):
    """A service whose code is missing is one line that says what to install; exit code 2."""
    process = start("serve", "gone")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err.startswith("reelhaul: gone cannot run: ")
    assert "pip install" in err
    assert err.count("\n") == 1


def test_migrate_one(start: Start):
    """migrate runs a service's migration and reports it."""
    started = time.monotonic()
    process = start("migrate", "one", "two")
    out, _ = process.communicate(timeout=20)
    assert out.splitlines() == ["one migrates", "one: the schema is this build's"]
    assert process.returncode == 0
    assert time.monotonic() - started < 20
