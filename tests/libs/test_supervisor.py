"""The supervisor over real processes: what it starts, restarts, and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reelhaul_runtime.up import ports, procfs

HERE = Path(__file__).parent
QUICK_POLICY = {
    "first_delay": 0.05,
    "longest_delay": 0.4,
    "probe_interval": 0.2,
    "probe_timeout": 0.3,
    "max_failed_probes": 3,
    "drain_timeout": 3.0,
}


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return the result of *condition* once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


def is_gone(pid: int) -> bool:
    """Return whether *pid* has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class SuiteHarness:
    """A supervisor in a process of its own, over three services called a, b and c."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.ports = {name: ports.find_free_port() for name in "abc"}
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, *, style: str = "json", flags: dict[str, list[str]] | None = None, **policy: float
    ) -> None:
        specs = [
            {
                "name": name,
                "command": [
                    *(sys.executable, str(HERE / "supervised_service.py"), name, str(port)),
                    *(str(self.journal), *(flags or {}).get(name, [])),
                ],
                "address": f"http://127.0.0.1:{port}",
            }
            for name, port in self.ports.items()
        ]
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "supervised_suite.py"), str(self.folder), style),
                *(json.dumps(QUICK_POLICY | policy), json.dumps(specs)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self) -> dict[str, Any]:
        """Return suite.json, empty until it exists."""
        try:
            state: dict[str, Any] = json.loads((self.folder / "run" / "suite.json").read_text())
        except FileNotFoundError:
            return {}
        return state

    def wait_until_ready(self) -> dict[str, Any]:
        """Return suite.json once all processes are ready."""
        wait_until(lambda: self.state().get("ready_seconds"))
        return self.state()

    def pid_of(self, name: str) -> int:
        """Return the process id of *name* once it runs."""
        pid: int = wait_until(lambda: self.state()["processes"].get(name))
        return pid

    def journal_entries(self) -> list[str]:
        """Return what the services wrote to the journal: ``a started``, ``a probed``, ``a ended`` …"""
        if not self.journal.exists():
            return []
        return [" ".join(line.split()[:2]) for line in self.journal.read_text().splitlines()]

    def lifecycle_entries(self) -> list[str]:
        """Return the journal without the probes."""
        return [line for line in self.journal_entries() if not line.endswith(" probed")]

    def wait_until_started(self, name: str, times: int) -> None:
        """Return once *name* was started so many *times*."""
        wait_until(lambda: self.journal_entries().count(f"{name} started") == times)

    def get(self, name: str, path: str, timeout: float = 5.0) -> str:
        url = f"http://127.0.0.1:{self.ports[name]}{path}"
        with urllib.request.urlopen(url, timeout=timeout) as response:
            text: str = response.read().decode()
        return text

    def answers(self, name: str) -> bool:
        """Return whether the service *name* answers."""
        try:
            return self.get(name, "/") == "ok"
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send one signal; return exit code, standard output and standard error."""
        assert self.process is not None
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[SuiteHarness]:
    harness = SuiteHarness(tmp_path)
    yield harness
    if harness.process is not None and harness.process.poll() is None:
        descendants = procfs.descendants(harness.process.pid)
        harness.process.kill()
        for pid in descendants:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if harness.process is not None:
        harness.process.communicate()


def test_ready_message(suite: SuiteHarness):
    """When all processes answer, the addresses and the time since the command are printed."""
    suite.start()
    state = suite.wait_until_ready()
    _, out, _ = suite.stop()
    assert out.splitlines()[0].startswith(f"Reelhaul is ready in {state['ready_seconds']:.2f} s")
    assert f"  a        http://127.0.0.1:{suite.ports['a']}" in out.splitlines()


def test_suite_json(suite: SuiteHarness):
    """suite.json contains the supervisor's pid, each address and each process, for its owner only."""
    suite.start()
    state = suite.wait_until_ready()
    assert suite.process is not None
    assert state["pid"] == suite.process.pid
    assert state["addresses"] == {n: f"http://127.0.0.1:{p}" for n, p in suite.ports.items()}
    assert {f"{n} started {pid}" for n, pid in state["processes"].items()} == {
        line for line in suite.journal.read_text().splitlines() if not line.endswith(" probed")
    }
    assert (suite.folder / "run" / "suite.json").stat().st_mode & 0o777 == 0o600


def test_fork_handlers_of_grpc_are_off():
    """gRPC's fork handlers, which crash some children of a process with gRPC's threads, are off."""
    code = "import os, reelhaul_runtime.up.suite; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout == "0\n"


def test_drains_in_reverse_order(suite: SuiteHarness):
    """SIGINT ends the processes one after another, the last one first; exit code 0, no suite.json left."""
    suite.start()
    suite.wait_until_ready()
    code, _, _ = suite.stop(signal.SIGINT)
    assert code == 0
    assert suite.lifecycle_entries()[-3:] == ["c ended", "b ended", "a ended"]
    assert suite.state() == {}


def test_killed_process_is_restarted(suite: SuiteHarness):
    """kill -9 of a process restarts it at the same address, and suite.json names the new process."""
    suite.start()
    first = suite.wait_until_ready()["processes"]["b"]
    os.kill(first, signal.SIGKILL)
    state = wait_until(lambda: suite.state()["processes"].get("b", first) != first and suite.state())
    suite.wait_until_started("b", 2)
    assert state["processes"]["b"] != first
    assert state["processes"]["a"] == suite.wait_until_ready()["processes"]["a"]


def test_restart_delays_grow(suite: SuiteHarness):
    """A process that keeps dying is restarted after longer and longer delays, up to the longest."""
    suite.start()
    suite.wait_until_ready()
    for deaths in range(1, 6):
        os.kill(suite.pid_of("b"), signal.SIGKILL)
        suite.wait_until_started("b", deaths + 1)
    _, _, err = suite.stop()
    messages = [json.loads(line)["message"] for line in err.splitlines() if "restarting in" in line]
    assert [text.rpartition("in ")[2] for text in messages] == ["0.1 s", "0.1 s", "0.2 s", "0.4 s", "0.4 s"]
    assert messages[0].startswith("b was ended by signal 9")


def test_stable_process_is_restarted_at_once(suite: SuiteHarness):
    """A process that was stable before it died is restarted after the first delay."""
    suite.start(stable_after=0.0)
    suite.wait_until_ready()
    for deaths in (1, 2, 3):
        os.kill(suite.pid_of("b"), signal.SIGKILL)
        suite.wait_until_started("b", deaths + 1)
    _, _, err = suite.stop()
    messages = [line for line in err.splitlines() if "restarting in" in line]
    assert all("in 0.1 s" in line for line in messages)
    assert len(messages) == 3


def test_hanging_process_is_restarted(suite: SuiteHarness):
    """A process that runs but answers nothing any more is killed and restarted."""
    suite.start()
    suite.wait_until_ready()
    # Until the first successful probe, silence counts as a slow start.
    wait_until(lambda: "a probed" in suite.journal_entries())
    with pytest.raises(TimeoutError):
        suite.get("a", "/hang", timeout=0.2)
    suite.wait_until_started("a", 2)
    wait_until(lambda: suite.answers("a"))


def test_overloaded_process_is_left_alone(suite: SuiteHarness):
    """A process that answers its health checks with 503 is alive: it is not killed."""
    suite.start(flags={"a": ["--overloaded"]})
    suite.wait_until_ready()
    # More probes than those after which a silent process is killed.
    wait_until(lambda: suite.journal_entries().count("a probed") > 6)
    assert suite.answers("a")
    assert sum(entry.startswith("a started") for entry in suite.journal_entries()) == 1


def test_orphans_are_killed(suite: SuiteHarness):
    """A child that a killed process had started, in a session of its own, does not outlive it."""
    suite.start()
    pid = suite.wait_until_ready()["processes"]["a"]
    child = int(suite.get("a", "/child"))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(child))


def test_process_that_does_not_drain_is_killed(suite: SuiteHarness):
    """A process that ignores SIGTERM is killed after the drain timeout; the others still drain."""
    suite.start(flags={"b": ["--ignore-term"]}, drain_timeout=0.5)
    pid = suite.wait_until_ready()["processes"]["b"]
    code, _, err = suite.stop()
    assert code == 0
    assert is_gone(pid)
    assert "b did not drain in time" in err
    assert suite.lifecycle_entries()[-2:] == ["c ended", "a ended"]


def test_process_that_drains_is_not_probed(suite: SuiteHarness):
    """A process that answers nothing while it drains is not taken for hanging: it drains to its end."""
    suite.start(flags={"b": ["--drain-slowly"]}, drain_timeout=10.0, max_failed_probes=2)
    suite.wait_until_ready()
    wait_until(lambda: "b probed" in suite.journal_entries())
    code, _, err = suite.stop()
    assert code == 0
    assert suite.lifecycle_entries()[-3:] == ["c ended", "b ended", "a ended"]
    assert "is killed" not in err
    assert "ERROR" not in err


def test_second_signal_kills(suite: SuiteHarness):
    """A second Ctrl-C ends everything at once, with exit code 130."""
    suite.start(flags={"c": ["--ignore-term"]}, drain_timeout=60.0)
    pids = suite.wait_until_ready()["processes"].values()
    assert suite.process is not None
    suite.process.send_signal(signal.SIGINT)
    assert suite.process.stderr is not None
    wait_until(lambda: "draining" in suite.process.stderr.readline())  # type: ignore[union-attr]
    code, _, _ = suite.stop(signal.SIGINT)
    assert code == 130
    assert all(is_gone(pid) for pid in pids)
    assert "b ended" not in suite.journal_entries()


def test_nothing_outlives_a_killed_supervisor(suite: SuiteHarness):
    """After kill -9 of the supervisor its processes drain by themselves."""
    suite.start()
    pids = suite.wait_until_ready()["processes"].values()
    suite.stop(signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in pids))
    assert {"a ended", "b ended", "c ended"} <= set(suite.journal_entries())


def test_refused_settings_end_the_suite(suite: SuiteHarness):
    """A process that refuses its settings (exit code 2) ends the suite with 2, after its own message."""
    suite.start(flags={"b": ["--refuse"]})
    assert suite.process is not None
    _, err = suite.process.communicate(timeout=20)
    assert suite.process.returncode == 2
    assert "REELHAUL_X: wrong" in err
    assert "b refused its settings" in err


def test_json_logs(suite: SuiteHarness):
    """JSON lines of a process pass unchanged; other lines become JSON that names the process."""
    suite.start()
    suite.wait_until_ready()
    _, _, err = suite.stop()
    records = [json.loads(line) for line in err.splitlines()]
    of_a = [record for record in records if record["service"] == "a"]
    assert {
        "time": "2026-01-02T03:04:05.678+00:00",
        "level": "INFO",
        "service": "a",
        "message": "hello",
    } in of_a
    assert "a plain line" in [record["message"] for record in of_a]


def test_text_logs(suite: SuiteHarness):
    """As text, each line names its process."""
    suite.start(style="text")
    suite.wait_until_ready()
    _, _, err = suite.stop()
    assert any(line.split()[1:] == ["a", "INFO", "hello"] for line in err.splitlines())
    assert any(line.split()[1:] == ["c", "INFO", "a", "plain", "line"] for line in err.splitlines())


def test_closed_output_ends_nothing(suite: SuiteHarness):
    """When the reader of the logs goes away, the suite goes on."""
    suite.start()
    assert suite.process is not None
    assert suite.process.stderr is not None
    suite.process.stderr.close()
    pid = suite.wait_until_ready()["processes"]["a"]
    os.kill(pid, signal.SIGKILL)
    suite.wait_until_started("a", 2)
    suite.process.terminate()
    assert suite.process.wait(20) == 0
