"""``reelhaul up``: what it refuses, what it keeps secret, its status and its logs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from tests.servers import WITHOUT_METRICS

from reelhaul_runtime.up import data_dir, log_multiplexer, procfs, suite_state


def run_command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m reelhaul_runtime` with *arguments* on the data *folder*, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", *arguments],
        env={**os.environ, **WITHOUT_METRICS, "REELHAUL_DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_refuses_a_folder_in_use(tmp_path: Path):
    """A second suite on the same data folder is refused, with the pid of the first."""
    with data_dir.lock(data_dir.create_run_folder(tmp_path)):
        refused = run_command(tmp_path, "up")
    assert refused.returncode == 2
    assert refused.stderr.startswith("reelhaul: REELHAUL_DATA_DIR: ")
    assert f"a suite already runs on {tmp_path} (pid {os.getpid()})" in refused.stderr


def test_names_the_setting_of_a_port_in_use(tmp_path: Path):
    """A port in use is reported with the setting to change, and nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refused = run_command(
            tmp_path,
            "up",
            REELHAUL_GATEWAY_ADDRESS="127.0.0.1:0",
            REELHAUL_JOBS_ADDRESS=address,
            REELHAUL_FETCHER_ADDRESS="127.0.0.1:0",
            REELHAUL_STORAGE_ADDRESS="127.0.0.1:0",
            REELHAUL_STORAGE_HTTP_ADDRESS="127.0.0.1:0",
        )
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"reelhaul: REELHAUL_JOBS_ADDRESS: {address} is used by another process")
    assert not (tmp_path / "run" / "suite.json").exists()


def test_names_the_setting_of_a_metrics_port_in_use(tmp_path: Path):
    """So is the port of a service's metrics, and one that two settings have."""
    names = ("GATEWAY", "JOBS", "FETCHER", "STORAGE", "STORAGE_HTTP")
    free = {f"REELHAUL_{name}_ADDRESS": "127.0.0.1:0" for name in names}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refused = run_command(tmp_path, "up", **free, REELHAUL_JOBS_METRICS_ADDRESS=address)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"reelhaul: REELHAUL_JOBS_METRICS_ADDRESS: {address} is used by another")
    same = {"REELHAUL_JOBS_METRICS_ADDRESS": address, "REELHAUL_STORAGE_METRICS_ADDRESS": address}
    refused = run_command(tmp_path, "up", **free, **same)
    assert refused.returncode == 2
    assert "REELHAUL_STORAGE_METRICS_ADDRESS is also the address of REELHAUL_JOBS_METRICS" in refused.stderr


def test_refuses_a_wrong_setting_by_name(tmp_path: Path):
    """A setting that does not parse is one line that names it; no traceback, exit code 2."""
    refused = run_command(tmp_path, "up", REELHAUL_LOG_LEVEL="LOUD")
    assert refused.returncode == 2
    assert refused.stderr.startswith("reelhaul: REELHAUL_LOG_LEVEL: input should be")
    assert refused.stderr.count("\n") == 1


def test_status_without_a_suite(tmp_path: Path):
    """If no suite runs, --status says so and exits with 3, stale suite.json or not."""
    data_dir.create_run_folder(tmp_path)
    suite_state.write(tmp_path / "run", suite_state.SuiteState(1, 1.0, {}, {}, {}))
    result = run_command(tmp_path, "up", "--status", "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout) == {"running": False}


def test_status_of_a_suite(tmp_path: Path, nats_url: str):
    """--status shows each process with its state, age and memory, children counted, and the sum."""
    folder = data_dir.create_run_folder(tmp_path)
    addresses = {"nats": nats_url} | dict.fromkeys(("storage", "jobs", "fetcher", "gateway"), "127.0.0.1:1")
    suite = suite_state.SuiteState(os.getpid(), 1.5, addresses, {"jobs": ""}, {"nats": os.getpid()})
    suite_state.write(folder, suite)
    with data_dir.lock(folder):
        result = run_command(tmp_path, "up", "--status", "--json")
        table = run_command(tmp_path, "up", "--status")
    status = json.loads(result.stdout)
    nats, _, jobs, _, _, up = status["services"]
    assert (nats["service"], nats["state"]) == ("nats", "SERVING")
    assert (jobs["pid"], jobs["state"]) == (None, "NOT_SERVING")
    assert nats["rss_bytes"] >= nats["pss_bytes"] > up["pss_bytes"] > 1_000_000
    assert status["total"]["pss_bytes"] == nats["pss_bytes"] + up["pss_bytes"]
    assert result.returncode == table.returncode == 1
    assert "ready in 1.50 s" in table.stdout
    assert status["health"]["status"] == "SERVING_STATUS_NOT_SERVING"
    assert re.search(r"^jobs +NOT_SERVING +jobs does not answer\n +-> look into the log", table.stdout, re.M)


def test_token_is_kept_and_private(tmp_path: Path):
    """The suite token is created once, is long, and only its owner can read it, whatever its mode was."""
    folder = data_dir.create_run_folder(tmp_path)
    token = data_dir.load_suite_token(folder)
    (folder / "suite-token").chmod(0o644)
    assert data_dir.load_suite_token(folder) == token
    assert len(token) >= 32
    assert (folder / "suite-token").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_waits_for_processes_of_a_killed_supervisor(tmp_path: Path):
    """Processes of the last suite are found in suite.json, waited for, and named if they stay."""
    folder = data_dir.create_run_folder(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as leftover:
        try:
            suite_state.write(folder, suite_state.SuiteState(1, None, {}, {}, {"jobs": leftover.pid}))
            assert suite_state.leftover_pids(folder) == [leftover.pid]
            with pytest.raises(data_dir.StartupConflict, match=str(leftover.pid)):
                data_dir.wait_for_exit([leftover.pid], seconds=0.1)
        finally:
            leftover.kill()
    data_dir.wait_for_exit([leftover.pid], seconds=5)


def test_reused_process_id_is_not_waited_for(tmp_path: Path):
    """A process younger than suite.json is another program's."""
    folder = data_dir.create_run_folder(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as unrelated:
        try:
            suite_state.write(folder, suite_state.SuiteState(1, None, {}, {}, {"jobs": unrelated.pid}))
            an_hour_ago = time.time() - 3600
            os.utime(folder / "suite.json", (an_hour_ago, an_hour_ago))
            assert suite_state.leftover_pids(folder) == []
        finally:
            unrelated.kill()


def test_process_age():
    """The age of a process is the seconds since its start."""
    with subprocess.Popen(["sleep", "600"]) as young:
        try:
            assert 0 <= procfs.age_seconds(young.pid) < 5
            assert young.pid in procfs.children(os.getpid())
        finally:
            young.kill()
    with pytest.raises(ProcessLookupError):
        procfs.age_seconds(young.pid)


def render(lines: list[bytes], style: Literal["json", "text"] = "json", **options: bool) -> str:
    """Return what a reader of the logs gets when nats writes *lines*."""
    read_end, write_end = os.pipe()
    writer = log_multiplexer.NonBlockingWriter(write_end)
    renderer = log_multiplexer.LogRenderer(writer, style, "INFO", **options)
    for line in lines:
        renderer.render("nats", line)
    writer.close()
    os.close(write_end)
    with os.fdopen(read_end) as file:
        return file.read()


def test_nats_banner_is_left_out():
    """nats-server's INFO lines are left out; its warnings keep their level."""
    banner = b"[123] 2026/01/02 03:04:05.678901 [INF] Starting nats-server"
    warning = b"[123] 2026/01/02 03:04:05.678901 [WRN] Slow disk"
    (line,) = render([banner, warning]).splitlines()
    assert json.loads(line)["level"] == "WARNING"
    assert json.loads(line)["message"] == "Slow disk"


GRPC_LINE = b"E0000 00:00:1764444444.123456   12345 chttp2_transport.cc:1234] ipv4:127.0.0.1:1: Got goaway"
OUR_LINE = b'{"time":"2026-01-02T03:04:05.678+00:00", "level": "ERROR", "service": "jobs", "message": "{no}"}'


def test_lines_of_grpc_are_json():
    """What gRPC itself writes becomes JSON with its source, also if our line follows without a line end."""
    grpc_only, after_grpc, ours = map(
        json.loads, render([GRPC_LINE, GRPC_LINE + OUR_LINE, OUR_LINE]).splitlines()
    )
    assert grpc_only["level"] == "INFO"
    assert (grpc_only["logger"], grpc_only["source"]) == ("grpc", "chttp2_transport.cc:1234")
    assert grpc_only["message"] == "ipv4:127.0.0.1:1: Got goaway"
    assert after_grpc == ours == json.loads(OUR_LINE)


@pytest.mark.parametrize(
    "line", [b"[" * 5000, b"{" * 5000, b'{"a":' * 20_000, b'{"level": 1}', b"\xff\x00", b""]
)
def test_every_line_is_json(line: bytes):
    """Whatever a process writes, each line of the log is a JSON object with time, level and message."""
    (rendered,) = render([line]).splitlines()
    assert json.loads(rendered).keys() >= {"time", "level", "message"}


def test_refusals_of_services_are_errors():
    """The line with which a service refuses its settings is shown at every level of the log."""
    (line,) = render([b"reelhaul: REELHAUL_X: wrong"]).splitlines()
    assert (json.loads(line)["level"], json.loads(line)["message"]) == ("ERROR", "REELHAUL_X: wrong")


def test_crash_is_critical():
    """What Python writes of a crash in native code becomes JSON, its first line with the level CRITICAL."""
    crash, stack = map(
        json.loads, render([b"Fatal Python error: Segmentation fault", b"  File x"]).splitlines()
    )
    assert (crash["level"], crash["logger"], stack["level"]) == ("CRITICAL", "stderr", "INFO")


def test_levels_of_our_own_lines_are_theirs():
    """A line of a service is shown whatever the level of `up`: the service knows its own."""
    debug = OUR_LINE.replace(b"ERROR", b"DEBUG").replace(b'"message"', b'"logger": "x", "message"')
    assert len(render([debug, b"[123] 2026/01/02 03:04:05.678901 [INF] banner"]).splitlines()) == 1


def test_text_for_a_terminal():
    """At a terminal names and levels have colours, extras are shown, tracebacks keep their lines."""
    record = {"time": "2026-01-02T03:04:05.678+00:00", "level": "ERROR", "message": "no", "job": "jobs/1"}
    line = json.dumps(record | {"exception": {"type": "KeyError", "stack": "Traceback\nKeyError"}}).encode()
    first, *trace = render([line], "text", colour=True).splitlines()
    assert first.endswith("\x1b[33mnats    \x1b[0m \x1b[31mERROR  \x1b[0m no job=jobs/1")
    assert [row.rpartition(" ")[2] for row in trace] == ["Traceback", "KeyError"]


def test_logs_cannot_control_a_terminal():
    """Control characters in a title are shown escaped, and the title stays within its line."""
    record = {"time": "x", "level": "INFO", "message": "a\x1b[2Jb", "title": "c\nd\x9be"}
    (line,) = render([json.dumps(record).encode()], "text").splitlines()
    assert line.endswith("a\\x1b[2Jb title=c\\x0ad\\x9be")


def test_unread_output_blocks_nobody():
    """While nobody reads, lines are dropped instead of blocking; later their number is logged."""
    read_end, write_end = os.pipe()
    writer = log_multiplexer.NonBlockingWriter(write_end, max_lines=10)
    renderer = log_multiplexer.LogRenderer(writer, "json", "INFO")
    started = time.monotonic()
    for _ in range(2000):
        renderer.render("jobs", b"x" * 500)
    assert time.monotonic() - started < 30
    received = b""
    with os.fdopen(read_end, "rb", buffering=0) as file:
        while b"lines were dropped" not in received:
            received += file.read(65536)
            renderer.render("jobs", b"again")
    writer.close()
    os.close(write_end)
