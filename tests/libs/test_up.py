"""The supervisor over real processes: what it starts, starts again, and ends."""

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

from reelhaul_runtime.up import data_dir, procfs

HERE = Path(__file__).parent
QUICK = {
    "first_delay": 0.05,
    "longest_delay": 0.4,
    "probe_interval": 0.2,
    "probe_timeout": 0.3,
    "drain_timeout": 3.0,
}


def until(seen: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What *seen* returns, once that is true."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def is_gone(pid: int) -> bool:
    """Whether *pid* has ended, buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class SmallSuite:
    """A supervisor in a process of its own, over small services called a, b and c."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.ports = {name: data_dir.reserve_port() for name in "abc"}
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, *, style: str = "json", flags: dict[str, list[str]] | None = None, **patience: float
    ) -> None:
        parts = [
            {
                "name": name,
                "command": [
                    *(sys.executable, str(HERE / "small_service.py"), name, str(port), str(self.journal)),
                    *(flags or {}).get(name, []),
                ],
                "address": f"http://127.0.0.1:{port}",
            }
            for name, port in self.ports.items()
        ]
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "small_suite.py"), str(self.folder), style),
                *(json.dumps(QUICK | patience), json.dumps(parts)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def record(self) -> dict[str, Any]:
        """suite.json, empty until there is one."""
        try:
            told: dict[str, Any] = json.loads((self.folder / "run" / "suite.json").read_text())
        except FileNotFoundError:
            return {}
        return told

    def ready(self) -> dict[str, Any]:
        """The record of the suite once all parts are ready."""
        until(lambda: self.record().get("ready_seconds"))
        return self.record()

    def life(self) -> list[str]:
        """What the services wrote down: ``a started``, ``a ended`` …"""
        if not self.journal.exists():
            return []
        return [" ".join(line.split()[:2]) for line in self.journal.read_text().splitlines()]

    def deeds(self) -> list[str]:
        """Its life, without the questions."""
        return [line for line in self.life() if not line.endswith(" asked")]

    def get(self, name: str, path: str, timeout: float = 5.0) -> str:
        url = f"http://127.0.0.1:{self.ports[name]}{path}"
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            text: str = answer.read().decode()
        return text

    def answers(self, name: str) -> bool:
        """Whether the part *name* is there and answers."""
        try:
            return self.get(name, "/") == "ok"
        except OSError:
            return False

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, standard output and standard error after one signal."""
        assert self.process is not None
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[SmallSuite]:
    small = SmallSuite(tmp_path)
    yield small
    if small.process is not None and small.process.poll() is None:
        left = procfs.descendants(small.process.pid)
        small.process.kill()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if small.process is not None:
        small.process.communicate()


def test_tells_that_it_is_ready(suite: SmallSuite):
    """When all parts answer, the addresses and the time since the command are printed."""
    suite.start()
    record = suite.ready()
    _, out, _ = suite.end()
    assert out.splitlines()[0].startswith(f"Reelhaul is ready in {record['ready_seconds']:.2f} s")
    assert f"  a        http://127.0.0.1:{suite.ports['a']}" in out.splitlines()


def test_record_names_what_runs(suite: SmallSuite):
    """suite.json holds the supervisor's pid, each address and each process, for its owner only."""
    suite.start()
    record = suite.ready()
    assert suite.process is not None
    assert record["pid"] == suite.process.pid
    assert record["addresses"] == {n: f"http://127.0.0.1:{p}" for n, p in suite.ports.items()}
    assert {f"{n} started {pid}" for n, pid in record["processes"].items()} == {
        line for line in suite.journal.read_text().splitlines() if not line.endswith(" asked")
    }
    assert (suite.folder / "run" / "suite.json").stat().st_mode & 0o777 == 0o600


def test_drains_in_reverse_order(suite: SmallSuite):
    """SIGTERM ends the parts one after another, the last one first; exit code 0, no record left."""
    suite.start()
    suite.ready()
    code, _, _ = suite.end(signal.SIGINT)
    assert code == 0
    assert suite.deeds()[-3:] == ["c ended", "b ended", "a ended"]
    assert suite.record() == {}


def test_killed_part_is_started_again(suite: SmallSuite):
    """kill -9 of a part brings it back at the same address, and the record names the new process."""
    suite.start()
    first = suite.ready()["processes"]["b"]
    os.kill(first, signal.SIGKILL)
    second = until(lambda: suite.record()["processes"].get("b", first) != first and suite.record())
    until(lambda: suite.life().count("b started") == 2)
    assert second["processes"]["b"] != first
    assert second["processes"]["a"] == suite.ready()["processes"]["a"]


def test_pauses_grow(suite: SmallSuite):
    """A part that keeps dying is started again after longer and longer pauses, up to the longest."""
    suite.start()
    suite.ready()
    for deaths in range(1, 6):
        pid = until(lambda: suite.record()["processes"].get("b"))
        os.kill(pid, signal.SIGKILL)
        until(lambda deaths=deaths: suite.life().count("b started") == deaths + 1)
    _, _, err = suite.end()
    told = [json.loads(line)["message"] for line in err.splitlines() if "starting it again" in line]
    assert [text.rpartition("in ")[2] for text in told] == ["0.1 s", "0.1 s", "0.2 s", "0.4 s", "0.4 s"]
    assert told[0].startswith("b was ended by signal 9")


def test_settled_part_starts_again_at_once(suite: SmallSuite):
    """After a while alive, the pause is the shortest again."""
    suite.start(stable_after=0.0)
    suite.ready()
    for deaths in (1, 2, 3):
        os.kill(until(lambda: suite.record()["processes"].get("b")), signal.SIGKILL)
        until(lambda deaths=deaths: suite.life().count("b started") == deaths + 1)
    _, _, err = suite.end()
    told = [line for line in err.splitlines() if "starting it again" in line]
    assert all("in 0.1 s" in line for line in told)
    assert len(told) == 3


def test_hanging_part_is_started_again(suite: SmallSuite):
    """A part that lives but answers nothing any more is killed and comes back."""
    suite.start()
    suite.ready()
    # Until it was seen alive once, silence is taken for a slow start.
    until(lambda: "a asked" in suite.life())
    with pytest.raises(TimeoutError):
        suite.get("a", "/hang", timeout=0.2)
    until(lambda: suite.life().count("a started") == 2)
    until(lambda: suite.answers("a"))


def test_what_a_dead_part_left_is_ended(suite: SmallSuite):
    """A child that a killed part had started, in a session of its own, does not outlive it."""
    suite.start()
    part = suite.ready()["processes"]["a"]
    child = int(suite.get("a", "/child"))
    os.kill(part, signal.SIGKILL)
    until(lambda: is_gone(child))


def test_part_that_will_not_drain_is_killed(suite: SmallSuite):
    """A part that ignores SIGTERM is killed after the drain time; the others still drain."""
    suite.start(flags={"b": ["--ignore-term"]}, drain_timeout=0.5)
    part = suite.ready()["processes"]["b"]
    code, _, err = suite.end()
    assert code == 0
    assert is_gone(part)
    assert "b did not drain in time" in err
    assert suite.deeds()[-2:] == ["c ended", "a ended"]


def test_second_signal_kills(suite: SmallSuite):
    """A second Ctrl-C ends everything at once, with exit code 130."""
    suite.start(flags={"c": ["--ignore-term"]}, drain_timeout=60.0)
    parts = suite.ready()["processes"].values()
    assert suite.process is not None
    suite.process.send_signal(signal.SIGINT)
    assert suite.process.stderr is not None
    until(lambda: "draining" in suite.process.stderr.readline())  # type: ignore[union-attr]
    code, _, _ = suite.end(signal.SIGINT)
    assert code == 130
    assert all(is_gone(pid) for pid in parts)
    assert "b ended" not in suite.life()


def test_nothing_outlives_a_killed_supervisor(suite: SmallSuite):
    """kill -9 of the supervisor lets its parts drain by themselves."""
    suite.start()
    parts = suite.ready()["processes"].values()
    suite.end(signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in parts))
    assert {"a ended", "b ended", "c ended"} <= set(suite.life())


def test_refused_settings_end_the_start(suite: SmallSuite):
    """A part that refuses its settings (exit code 2) ends the suite with 2, after its own words."""
    suite.start(flags={"b": ["--refuse"]})
    assert suite.process is not None
    _, err = suite.process.communicate(timeout=20)
    assert suite.process.returncode == 2
    assert "REELHAUL_X: wrong" in err
    assert "b refused its settings" in err


def test_logs_are_json_lines_when_piped(suite: SmallSuite):
    """A part's JSON lines pass as they are; other lines become JSON that names the part."""
    suite.start()
    suite.ready()
    _, _, err = suite.end()
    told = [json.loads(line) for line in err.splitlines()]
    mine = [line for line in told if line["service"] == "a"]
    assert {
        "time": "2026-01-02T03:04:05.678+00:00",
        "level": "INFO",
        "service": "a",
        "message": "hello",
    } in mine
    assert "a plain line" in [line["message"] for line in mine]


def test_logs_as_text(suite: SmallSuite):
    """As text, each line says which part speaks."""
    suite.start(style="text")
    suite.ready()
    _, _, err = suite.end()
    assert any(line.split()[1:] == ["a", "INFO", "hello"] for line in err.splitlines())
    assert any(line.split()[1:] == ["c", "INFO", "a", "plain", "line"] for line in err.splitlines())


def test_a_closed_output_ends_nothing(suite: SmallSuite):
    """When the reader of the logs goes away, the suite goes on."""
    suite.start()
    assert suite.process is not None
    assert suite.process.stderr is not None
    suite.process.stderr.close()
    part = suite.ready()["processes"]["a"]
    os.kill(part, signal.SIGKILL)
    until(lambda: suite.life().count("a started") == 2)
    suite.process.terminate()
    assert suite.process.wait(20) == 0
