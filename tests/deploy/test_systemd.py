"""The units in deploy/systemd: systemd accepts them, they confine the services, and their commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.suite.suite import SERVERS

UNITS = Path(__file__).resolve().parents[2] / "deploy/systemd"
_INSTANCES = ("gateway", "jobs", "fetcher", "storage")
_REELHAUL = Path(sys.executable).parent / "reelhaul"
_INSTALLED = "/opt/reelhaul/bin/reelhaul"
#: What `systemd-analyze security` may say at most, in tenths: 10 is a service without any hardening.
_MAX_EXPOSURE = {"reelhaul.service": 25, "reelhaul@fetcher.service": 25}
_MAX_EXPOSURE_OF_OTHERS = 20

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def systemd_analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing: install the Debian package systemd")
    return program


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units as installed, with the executable of this environment."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    for file in folder.glob("*.service"):
        file.write_text(file.read_text().replace(_INSTALLED, str(_REELHAUL)))
    return folder


def analyze(program: str, units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The empty last part of the path adds the units of systemd itself.
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    command = [program, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=units
    )


@pytest.mark.parametrize("unit", ["reelhaul.service", *(f"reelhaul@{name}.service" for name in _INSTANCES)])
def test_unit_is_valid_and_confined(systemd_analyze: str, units: Path, unit: str):
    """systemd finds no fault with a unit, and counts it among the well confined services."""
    checked = analyze(systemd_analyze, units, "verify", "--man=no", unit)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    maximum = _MAX_EXPOSURE.get(unit, _MAX_EXPOSURE_OF_OTHERS)
    rated = analyze(
        systemd_analyze, units, "security", "--offline=yes", f"--threshold={maximum}", "--no-pager", unit
    )
    assert rated.returncode == 0, rated.stdout + rated.stderr


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd-sysusers is missing")
def test_user_is_created(tmp_path: Path):
    """systemd-sysusers accepts the file that creates the user of the services."""
    file = UNITS / "reelhaul.sysusers.conf"
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(file)], check=True, timeout=60)
    assert "reelhaul:" in (tmp_path / "etc/passwd").read_text()


class Unit:
    """A unit, run as systemd does, as far as its command, variables, credentials and signals go."""

    def __init__(self, file: Path, folder: Path, instance: str = "") -> None:
        self._folder = folder
        specifiers = {"i": instance, "S": str(folder / "state"), "d": str(folder / "credentials")}
        self._lines = [
            (name, re.sub("%([a-zA-Z])", lambda match: specifiers[match[1]], value))
            for name, separator, value in (
                line.partition("=") for line in file.read_text().splitlines() if not line.startswith("#")
            )
            if separator
        ]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self._lines if key == name]

    def start(self, settings: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
        """Start the command; *settings* are those of the operator's environment file."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        environment["NOTIFY_SOCKET"] = str(self._folder / "notify")
        environment |= dict(each.split("=", 1) for each in self.values("Environment"))
        (self._folder / "state/reelhaul").mkdir(parents=True)
        (command,) = self.values("ExecStart")
        (directory,) = self.values("WorkingDirectory")
        with output.open("wb") as file:
            return subprocess.Popen(
                command.split(),
                env=environment | settings,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Stop *process* as KillMode=mixed does; return its exit code."""
        assert self.values("KillMode") == ["mixed"]
        (name,), (seconds,) = self.values("KillSignal"), self.values("TimeoutStopSec")
        process.send_signal(signal.Signals[name])
        return process.wait(float(seconds))


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which the service manager is told about the state of a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(60)
        yield receiver


def check_run(unit: Unit, settings: dict[str, str], folder: Path, notifications: socket.socket) -> None:
    """Run *unit*: it tells that it is ready and that it stops, drains in time, and logs only JSON."""
    log = folder / "journal"
    process = unit.start(settings, log)
    try:
        assert notifications.recv(1000) == b"READY=1", log.read_text()
        assert unit.stop(process) == 0
        assert notifications.recv(1000) == b"STOPPING=1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"serving", "draining; a second signal kills"} & {line["message"] for line in lines}


def test_suite_runs(units: Path, tmp_path: Path, notifications: socket.socket):
    """The unit of the whole suite starts it, is ready when all services are, and drains it by its signal."""
    addresses = {f"REELHAUL_{name.upper()}_ADDRESS": "127.0.0.1:0" for name in SERVERS}
    unit = Unit(units / "reelhaul.service", tmp_path)
    check_run(unit, {**addresses, **_without_metrics()}, tmp_path, notifications)
    assert (tmp_path / "state/reelhaul/run/api-key").exists()


def test_service_runs(units: Path, tmp_path: Path, notifications: socket.socket):
    """The unit of a single service starts it with the secret of the suite as a credential."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "suite_token").write_text("the token of the suite\n")
    unit = Unit(units / "reelhaul@.service", tmp_path, "storage")
    assert [each.partition(":")[0] for each in unit.values("LoadCredential")] == ["suite_token"]
    settings = {
        "REELHAUL_AUTH": "none",
        "REELHAUL_STORAGE_ADDRESS": "127.0.0.1:0",
        "REELHAUL_STORAGE_HTTP_ADDRESS": "127.0.0.1:0",
        **_without_metrics(),
    }
    check_run(unit, settings, tmp_path, notifications)


def _without_metrics() -> dict[str, str]:
    return {f"REELHAUL_{name.upper()}_METRICS_ADDRESS": "" for name in _INSTANCES}
