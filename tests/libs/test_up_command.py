"""``reelhaul up`` itself: what it refuses, what it keeps secret, and its status."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from reelhaul_runtime.up import data_dir as ground
from reelhaul_runtime.up import log_multiplexer, procfs, suite_state


def command(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m reelhaul_runtime` with *arguments*, ended."""
    return subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", *arguments],
        env={**os.environ, "REELHAUL_DATA_DIR": str(data_dir), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_refuses_a_folder_in_use(tmp_path: Path):
    """A second suite on the same data folder is refused, with the pid of the first."""
    with ground.lock(ground.create_run_folder(tmp_path)):
        refused = command(tmp_path, "up")
    assert refused.returncode == 1
    assert f"a suite runs on {tmp_path} already (pid {os.getpid()})" in refused.stderr


def test_names_the_setting_of_a_taken_port(tmp_path: Path):
    """A port in use is named with the setting to change, and nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refused = command(
            tmp_path,
            "up",
            REELHAUL_GATEWAY_ADDRESS="127.0.0.1:0",
            REELHAUL_JOBS_ADDRESS=address,
            REELHAUL_FETCHER_ADDRESS="127.0.0.1:0",
            REELHAUL_STORAGE_ADDRESS="127.0.0.1:0",
        )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"reelhaul: {address} is taken by another process")
    assert "REELHAUL_JOBS_ADDRESS" in refused.stderr
    assert not (tmp_path / "run" / "suite.json").exists()


def test_refuses_a_wrong_setting_by_name(tmp_path: Path):
    """A setting that does not parse is one line that names it; no traceback, exit code 2."""
    refused = command(tmp_path, "up", REELHAUL_LOG_LEVEL="LOUD")
    assert refused.returncode == 2
    assert refused.stderr.startswith("reelhaul: REELHAUL_LOG_LEVEL: input should be")
    assert refused.stderr.count("\n") == 1


def test_status_of_nothing(tmp_path: Path):
    """Where no suite runs, --status says so and exits with 3, a stale record or not."""
    ground.create_run_folder(tmp_path)
    suite_state.write(tmp_path / "run", suite_state.SuiteState(1, 1.0, {}, {}, {}))
    asked = command(tmp_path, "up", "--status", "--json")
    assert asked.returncode == 3
    assert json.loads(asked.stdout) == {"running": False}


def test_status_of_a_suite(tmp_path: Path, nats_url: str):
    """--status shows each part with its state, age and memory, children counted, and the sum."""
    folder = ground.create_run_folder(tmp_path)
    suite = suite_state.SuiteState(
        os.getpid(), 1.5, {"nats": nats_url, "jobs": "127.0.0.1:1"}, {"jobs": ""}, {"nats": os.getpid()}
    )
    suite_state.write(folder, suite)
    with ground.lock(folder):
        asked = command(tmp_path, "up", "--status", "--json")
        table = command(tmp_path, "up", "--status")
    told = json.loads(asked.stdout)
    nats, jobs, up = told["services"]
    assert (nats["service"], nats["state"]) == ("nats", "SERVING")
    assert (jobs["pid"], jobs["state"]) == (None, "NOT_SERVING")
    assert nats["rss_bytes"] >= nats["pss_bytes"] > up["pss_bytes"] > 1_000_000
    assert told["total"]["pss_bytes"] == nats["pss_bytes"] + up["pss_bytes"]
    assert asked.returncode == table.returncode == 1
    assert "ready in 1.50 s" in table.stdout


def test_token_is_kept_and_private(tmp_path: Path):
    """The suite token is made once, is long, and only its owner can read it, whatever it was before."""
    folder = ground.create_run_folder(tmp_path)
    made = ground.load_suite_token(folder)
    (folder / "suite-token").chmod(0o644)
    assert ground.load_suite_token(folder) == made
    assert len(made) >= 32
    assert (folder / "suite-token").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_waits_for_what_a_killed_supervisor_left(tmp_path: Path):
    """Processes of the last suite are waited for by their record, and named where they stay."""
    folder = ground.create_run_folder(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as left:
        try:
            suite_state.write(folder, suite_state.SuiteState(1, None, {}, {}, {"jobs": left.pid}))
            assert suite_state.leftover_pids(folder) == [left.pid]
            with pytest.raises(ground.StartupConflict, match=str(left.pid)):
                ground.wait_for_exit([left.pid], seconds=0.1)
        finally:
            left.kill()
    ground.wait_for_exit([left.pid], seconds=5)


def test_reused_process_id_is_not_waited_for(tmp_path: Path):
    """A process younger than the record is somebody else's."""
    folder = ground.create_run_folder(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            suite_state.write(folder, suite_state.SuiteState(1, None, {}, {}, {"jobs": stranger.pid}))
            an_hour_ago = time.time() - 3600
            os.utime(folder / "suite.json", (an_hour_ago, an_hour_ago))
            assert suite_state.leftover_pids(folder) == []
        finally:
            stranger.kill()


def test_chosen_ports_are_out_of_the_way():
    """Port 0 becomes a free port that the kernel gives to no outgoing connection."""
    host, _, port = ground.resolve_port("127.0.0.1:0").rpartition(":")
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert host == "127.0.0.1"
    assert 1024 < int(port) < low
    assert ground.resolve_port("127.0.0.1:8080") == "127.0.0.1:8080"


def test_address_that_is_none():
    """An address without a port is refused in words."""
    with pytest.raises(ground.StartupConflict, match="host:port"):
        ground.is_address_free("localhost")


def test_age_of_this_process():
    """The age of a process is told in seconds since its start."""
    with subprocess.Popen(["sleep", "600"]) as young:
        try:
            assert 0 <= procfs.age_seconds(young.pid) < 5
            assert young.pid in procfs.children(os.getpid())
        finally:
            young.kill()
    with pytest.raises(ProcessLookupError):
        procfs.age_seconds(young.pid)


def told_by(lines_: list[bytes], style: Literal["json", "text"] = "json", **options: bool) -> str:
    """What a program reads when nats tells *lines_*."""
    reading, writing = os.pipe()
    outlet = log_multiplexer.NonBlockingWriter(writing)
    told = log_multiplexer.LogRenderer(outlet, style, "INFO", **options)
    for line in lines_:
        told.render("nats", line)
    outlet.close()
    os.close(writing)
    with os.fdopen(reading) as file:
        return file.read()


def test_brokers_banner_is_left_out():
    """nats-server's INFO lines are no news; its warnings keep their level."""
    banner = b"[123] 2026/01/02 03:04:05.678901 [INF] Starting nats-server"
    warning = b"[123] 2026/01/02 03:04:05.678901 [WRN] Slow disk"
    (line,) = told_by([banner, warning]).splitlines()
    assert json.loads(line)["level"] == "WARNING"
    assert json.loads(line)["message"] == "Slow disk"


def test_text_for_a_terminal():
    """At a terminal names and levels have colours, extras are shown, tracebacks keep their lines."""
    said = {"time": "2026-01-02T03:04:05.678+00:00", "level": "ERROR", "message": "no", "job": "jobs/1"}
    raw = json.dumps(said | {"exception": "Traceback\nKeyError"}).encode()
    first, *trace = told_by([raw], "text", colour=True).splitlines()
    assert first.endswith("\x1b[33mnats    \x1b[0m \x1b[31mERROR  \x1b[0m no job=jobs/1")
    assert [row.rpartition(" ")[2] for row in trace] == ["Traceback", "KeyError"]


def test_logs_cannot_steer_a_terminal():
    """A title with control characters is shown, not obeyed, and stays within its line."""
    raw = json.dumps({"time": "x", "level": "INFO", "message": "a\x1b[2Jb", "title": "c\nd\x9be"}).encode()
    (line,) = told_by([raw], "text").splitlines()
    assert line.endswith("a\\x1b[2Jb title=c\\x0ad\\x9be")


def test_reader_that_does_not_read_stops_nobody():
    """While nobody reads, lines are dropped rather than waited with; later it is told how many."""
    reading, writing = os.pipe()
    outlet = log_multiplexer.NonBlockingWriter(writing, held=10)
    told = log_multiplexer.LogRenderer(outlet, "json", "INFO")
    begun = time.monotonic()
    for _ in range(2000):
        told.render("jobs", b"x" * 500)
    assert time.monotonic() - begun < 5
    heard = b""
    with os.fdopen(reading, "rb", buffering=0) as file:
        while b"lines were lost" not in heard:
            heard += file.read(65536)
            told.render("jobs", b"again")
    outlet.close()
    os.close(writing)
