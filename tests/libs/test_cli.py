"""What a person at a terminal, and a script in their place, meet."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from tests.libs.fake_gateway import (
    CANCELLED,
    CONTENT,
    DONE,
    FAILED,
    FILE,
    JOB,
    RUNNING,
    FakeGateway,
    progress,
    running_gateway,
    status,
)

from reelhaul.cli.commands import reelhaul
from reelhaul.cli.progress_bar import LiveBar
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import Event


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as running:
        yield running


def run(gateway: FakeGateway, *args: str) -> Result:
    return CliRunner().invoke(reelhaul, [*args, "--server", gateway.url])


def download(gateway: FakeGateway, folder: Path, *args: str) -> Result:
    return run(gateway, "download", "https://a.example/v", "-o", str(folder), *args)


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_download_saves_the_verified_file(gateway, tmp_path):
    """One command, exit code 0, and the file is there under its name, with nothing beside it."""
    result = download(gateway, tmp_path, "-q", "1080p", "-s", "en", "-s", "de", "--label", "team=a")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["A video.mp4"]
    assert FILE["sha256"] in result.stdout
    _, headers, body = gateway.requests[0]
    assert body == {
        "url": "https://a.example/v",
        "quality": "1080p",
        "subtitle_languages": ["en", "de"],
        "labels": {"team": "a"},
    }
    assert len(headers["idempotency-key"]) == 36


def test_piped_output_is_plain_lines(gateway, tmp_path):
    """A log file gets no control characters, and each stage once."""
    gateway.connections = [
        [{"snapshot": RUNNING}, progress(1), progress(2), progress(3), {"completed": DONE}]
    ]
    result = download(gateway, tmp_path)
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert result.stdout.count("downloading") == 1
    assert "1.0 kB of 100.0 kB  1.0 MB/s  0:03 left" in result.stdout


def test_json_is_one_object_a_line(gateway, tmp_path):
    """A script reads typed events, and at the end where the file lies."""
    result = download(gateway, tmp_path, "--json")
    told = lines(result)
    assert [event["type"] for event in told] == ["created", "snapshot", "progress", "completed", "saved"]
    assert told[0]["job_id"] == JOB
    assert told[2]["progress"]["progress_percent"] == 50
    assert told[-1]["path"] == str(tmp_path / "A video.mp4")
    assert told[-1]["size_bytes"] == len(CONTENT)


def test_watch_survives_disconnects(gateway, tmp_path):
    """A broken stream is taken up again with the last token; nothing is told twice."""
    gateway.connections = [
        [{"snapshot": RUNNING}, progress(10)],
        [progress(20), {"error": status(14, "OVERLOADED", "draining")}],
        [{"completed": DONE}],
    ]
    result = download(gateway, tmp_path, "--json")
    assert result.exit_code == 0, result.output
    watches = [path for path, _, _ in gateway.requests if "/progress/" in path]
    assert ["resume_token" in path for path in watches] == [False, True, True]
    assert "resume_token=t1" in watches[1]
    assert [e["type"] for e in lines(result)].count("reconnecting") == 2


def test_failed_job_is_exit_code_1(gateway, tmp_path):
    """The reason, the message and nothing else; no file is left behind."""
    gateway.connections = [[{"snapshot": RUNNING}, {"failed": FAILED}]]
    result = download(gateway, tmp_path)
    assert result.exit_code == 1
    assert "MEDIA_NOT_FOUND: the video was removed" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_refused_request_is_exit_code_2(gateway, tmp_path):
    """What the server says of a field is told with the field's name."""
    refusal = status(3, "FIELD_INVALID", "1079p is no quality", quality="use 1080p")
    gateway.responses["POST /api/v1/download"] = [(400, refusal)]
    result = download(gateway, tmp_path)
    assert result.exit_code == 2
    assert "FIELD_INVALID: 1079p is no quality (quality)" in result.stderr


def test_refusal_is_json_with_json(gateway, tmp_path):
    """A script needs no second parser for failures."""
    gateway.responses["POST /api/v1/download"] = [(400, status(3, "URL_INVALID", "no URL", url="no URL"))]
    result = download(gateway, tmp_path, "--json")
    assert lines(result)[-1]["reason"] == "URL_INVALID"
    assert lines(result)[-1]["fields"] == {"url": "no URL"}


def test_restarting_server_is_asked_again(gateway, tmp_path):
    """A moment of 503 is no failure, and the repeated create carries the same key."""
    gateway.responses["POST /api/v1/download"] = [
        (503, status(14, "SERVICE_UNAVAILABLE", "jobs does not answer"))
    ]
    assert download(gateway, tmp_path).exit_code == 0
    first, second = [h["idempotency-key"] for path, h, _ in gateway.requests if path.startswith("POST")]
    assert first == second


def test_no_server_is_told_with_advice(tmp_path):
    """Nobody listens: one line, what to do, and no traceback."""
    result = CliRunner().invoke(reelhaul, ["jobs", "list", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "SERVICE_UNAVAILABLE: http://127.0.0.1:1 does not answer" in result.stderr
    assert "reelhaul up" in result.stderr
    assert "Traceback" not in result.output


def test_something_else_at_the_port_is_told(gateway, tmp_path):
    """An answer that is no Status, nor JSON, is a clear failure."""
    gateway.responses["GET /api/v1/status/x"] = [(418, {"teapot": True})]
    result = run(gateway, "jobs", "get", "x")
    assert result.exit_code == 1
    assert "HTTP 418" in result.stderr


def test_broken_file_is_resumed(gateway, tmp_path):
    """What was received is kept, and the rest is asked for by Range."""
    gateway.truncate_after = [300_000, 200_000]
    assert download(gateway, tmp_path).exit_code == 0
    ranges = [h.get("range") for path, h, _ in gateway.requests if "/artifacts/" in path]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_corrupt_file_is_not_kept(gateway, tmp_path):
    """Right in length, wrong in a byte: nothing is saved, and the exit code says so."""
    gateway.content = b"x" + CONTENT[1:]
    result = download(gateway, tmp_path)
    assert result.exit_code == 1
    assert "SHA-256" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_damaged_piece_is_fetched_anew(gateway, tmp_path):
    """A piece left by an earlier run that is not of this file does no harm."""
    (tmp_path / f".{FILE['sha256'][:16]}.A video.mp4.part").write_bytes(b"damage")
    assert download(gateway, tmp_path).exit_code == 0
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_other_files_are_never_overwritten_unasked(gateway, tmp_path):
    """Ours is numbered; with --overwrite it takes the name; the same file is not saved twice."""
    (tmp_path / "A video.mp4").write_text("mine")
    download(gateway, tmp_path)
    assert (tmp_path / "A video.mp4").read_text() == "mine"
    assert (tmp_path / "A video (2).mp4").read_bytes() == CONTENT
    download(gateway, tmp_path, "--overwrite")
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT
    download(gateway, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".bashrc", "a/b\\c.mp4", "x\x1b[31m.mp4", "con.mp4", ""]
)
def test_server_names_stay_in_the_folder(gateway, tmp_path, name):
    """Whatever a server calls a file, it lands in the folder, visible, under a plain name."""
    folder = tmp_path / "in" / "here"
    gateway.connections = [[{"completed": {**DONE, "files": [{**FILE, "name": name}]}}]]
    assert download(gateway, folder).exit_code == 0
    (saved,) = folder.iterdir()
    assert not saved.name.startswith(".")
    assert saved.name.isprintable()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [saved]


def test_long_names_keep_their_extension(gateway, tmp_path):
    """A title of 300 bytes becomes a name that every file system takes."""
    name = "ä" * 300 + ".mp4"
    gateway.connections = [[{"completed": {**DONE, "files": [{**FILE, "name": name}]}}]]
    assert download(gateway, tmp_path).exit_code == 0
    (saved,) = tmp_path.iterdir()
    assert len(saved.name.encode()) <= 200
    assert saved.suffix == ".mp4"


def test_ctrl_c_cancels_the_job(gateway, tmp_path):
    """Exit code 130, the job is cancelled at the server, and the last words say so."""
    gateway.connections = [[{"snapshot": RUNNING}, progress(10), {"hang": True}]]
    code, lines = interrupted(gateway, tmp_path)
    assert code == 130
    assert gateway.cancelled.is_set()
    assert (lines[-1]["type"], lines[-1]["status"]) == ("cancelled", "CANCELLED")


def interrupted(gateway, folder, *options: str) -> tuple[int, list[dict[str, object]]]:
    """Exit code and lines of a download that Ctrl-C interrupts while it is watched."""
    command = [sys.executable, "-m", "reelhaul.cli", "download", "https://a.example/v", *options]
    command += ["-o", str(folder), "--server", gateway.url, "--json"]
    # What runs in the background of a shell ignores Ctrl-C, and its processes do as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert gateway.watched.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    return process.returncode, [json.loads(line) for line in out.splitlines()]


def test_ctrl_c_ends_a_recording(gateway, tmp_path):
    """What is recorded is not thrown away: its file is saved, as at its own end."""
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}], [{"completed": DONE}]]
    code, lines = interrupted(gateway, tmp_path, "--live", "record")
    assert code == 0
    assert not gateway.cancelled.is_set()
    assert f"POST /api/v1/stop_recording/{JOB}" in [asked for asked, _, _ in gateway.requests]
    assert {"recording_stopped", "saved"} <= {line["type"] for line in lines}
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_ctrl_c_before_the_recording(gateway, tmp_path):
    """Where nothing is recorded yet there is nothing to keep: the job is cancelled."""
    conflict = {"code": 9, "message": "it is QUEUED and records nothing now", "details": []}
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}]]
    gateway.responses[f"POST /api/v1/stop_recording/{JOB}"] = [(400, conflict)]
    code, lines = interrupted(gateway, tmp_path, "--live", "wait")
    assert (code, lines[-1]["type"]) == (130, "cancelled")
    assert gateway.cancelled.is_set()


def test_no_wait_leaves_at_once(gateway, tmp_path):
    """A script may start a job and come back later."""
    result = download(gateway, tmp_path, "--no-wait")
    assert result.exit_code == 0
    assert JOB in result.stdout
    assert len(gateway.requests) == 1


def test_jobs_list_pages_until_its_limit(gateway):
    """More than a page is fetched by token; each job is a line of tab-separated fields."""
    result = run(gateway, "jobs", "list", "--status", "failed", "--limit", "3")
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == [
        "FAILED",
        "SUCCEEDED",
        "SUCCEEDED",
    ]
    assert "status=FAILED" in gateway.requests[0][0]
    assert "page_token=t" in gateway.requests[1][0]


def test_jobs_get_shows_why(gateway):
    """A failed job tells its reason; jobs/{id} is as good as the bare id."""
    gateway.job = FAILED
    result = run(gateway, "jobs", "get", f"jobs/{JOB}")
    assert "MEDIA_NOT_FOUND: the video was removed" in result.stdout
    assert gateway.requests[0][0] == f"GET /api/v1/status/{JOB}"


def test_jobs_watch_tells_by_its_exit_code(gateway):
    """Watching a job that fails exits 1."""
    gateway.connections = [[{"snapshot": RUNNING}, {"failed": CANCELLED}]]
    assert run(gateway, "jobs", "watch", JOB).exit_code == 1


def test_jobs_save_fetches_later(gateway, tmp_path):
    """The files of a job that succeeded earlier are saved as by download."""
    assert run(gateway, "jobs", "save", JOB, "-o", str(tmp_path)).exit_code == 0
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_ids_cannot_climb_the_path(gateway):
    """An id is one segment of the path, whatever it holds."""
    run(gateway, "jobs", "get", "../../v1/jobs?x=")
    assert gateway.requests[0][0] == "GET /api/v1/status/..%2F..%2Fv1%2Fjobs%3Fx%3D"


def test_probe_shows_what_is_offered(gateway):
    """Titles come from strangers: they cannot steer the terminal."""
    result = run(gateway, "probe", "https://a.example/v")
    assert "137" in result.stdout
    assert "1:01" in result.stdout
    assert "\x1b" not in result.stdout


def test_live_bar_shows_stage_and_numbers():
    """On a terminal there is a bar; a title's markup is text."""
    out = io.StringIO()
    bar = LiveBar(Console(file=out, force_terminal=True, width=120, markup=False, emoji=False))
    bar.event(Event("snapshot", WatchProgressResponse(snapshot=Download(title="[red]:smile:")), {}))
    told = WatchProgressResponse.Progress(stage=3, progress_percent=42, downloaded_bytes=1e6, speed=2e6)
    bar.event(Event("progress", WatchProgressResponse(progress=told), {}))
    bar.close()
    assert "[red]:smile:" in out.getvalue()
    assert "downloading" in out.getvalue()
    assert "42%  1.0 MB  2.0 MB/s" in out.getvalue()


def test_client_commands_need_no_server_packages():
    """A missing server extra breaks its own command only, and says what to install."""
    code = "import sys; sys.modules['reelhaul_runtime'] = None; from reelhaul.cli import main; main()"
    command = [sys.executable, "-c", code]
    result = subprocess.run([*command, "up"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'reelhaul[all]'" in result.stderr
    listed = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    )
    assert "download" in listed.stdout
