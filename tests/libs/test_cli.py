"""The command line, for people at a terminal and for scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
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

from reelhaul.api_keys import create_key_string
from reelhaul.cli.commands import reelhaul
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.rest import CallFailed, Client


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
    """`download` exits with 0 and saves the file under its name, with nothing beside it."""
    result = download(gateway, tmp_path, "-q", "1080p", "-s", "en", "-s", "de", "--label", "team=a")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["A video.mp4"]
    assert result.stdout == f"{tmp_path / 'A video.mp4'}\n"
    assert FILE["sha256"] in result.stderr
    _, headers, body = gateway.requests[0]
    assert body == {
        "url": "https://a.example/v",
        "quality": "1080p",
        "subtitle_languages": ["en", "de"],
        "labels": {"team": "a"},
    }
    assert len(headers["idempotency-key"]) == 36


def test_piped_output_is_plain_lines(gateway, tmp_path):
    """Piped output has no control characters, and each stage once."""
    gateway.connections = [
        [{"snapshot": RUNNING}, progress(1), progress(2), progress(3), {"completed": DONE}]
    ]
    result = download(gateway, tmp_path)
    assert "\x1b" not in result.output
    assert "\r" not in result.output
    assert result.stderr.count("downloading") == 1
    assert "1.0 kB of 100.0 kB  1.0 MB/s  0:03 left" in result.stderr


def test_json_is_one_object_per_line(gateway, tmp_path):
    """--json prints typed events, and at the end the path of the file."""
    result = download(gateway, tmp_path, "--json")
    events = lines(result)
    assert [event["type"] for event in events] == ["created", "snapshot", "progress", "completed", "saved"]
    assert events[0]["job_id"] == JOB
    assert events[2]["progress"]["progress_percent"] == 50
    assert events[-1]["path"] == str(tmp_path / "A video.mp4")
    assert events[-1]["size_bytes"] == len(CONTENT)


@pytest.mark.parametrize(
    ("delivery", "code", "text"),
    [
        ({"status": "DELIVERED", "uri": "s3://b/k"}, 0, "delivered s3://b/k"),
        (
            {"status": "FAILED", "error": {"reason": "DESTINATION_REFUSED", "message": "no such bucket"}},
            1,
            "not delivered to media: A video.mp4: no such bucket",
        ),
    ],
)
def test_delivery(gateway, tmp_path, delivery, code, text):
    """--deliver-to waits for the delivery and shows it; the file is saved in any case."""
    pending = {"status": "PENDING", "error": {"reason": "DESTINATION_UNAVAILABLE", "message": "SlowDown"}}
    waiting = {**DONE, "deliver_to": "media", "files": [{**FILE, "delivery": pending}]}
    done = {**DONE, "deliver_to": "media", "files": [{**FILE, "delivery": delivery}]}
    gateway.connections = [[{"snapshot": RUNNING}, {"snapshot": waiting}, {"completed": done}]]
    result = download(gateway, tmp_path, "--deliver-to", "media")
    assert result.exit_code == code, result.output
    assert gateway.requests[0][2]["deliver_to"] == "media"
    assert "delivering to media (SlowDown)" in result.stderr
    assert text in result.stderr
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_watch_survives_disconnects(gateway, tmp_path):
    """A broken stream is resumed with the last token, and no event is repeated."""
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


def test_failed_job_exits_with_1(gateway, tmp_path):
    """The reason and message are printed, and no file is left behind."""
    gateway.connections = [[{"snapshot": RUNNING}, {"failed": FAILED}]]
    result = download(gateway, tmp_path)
    assert result.exit_code == 1
    assert "MEDIA_NOT_FOUND: the video was removed" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_invalid_request_exits_with_2(gateway, tmp_path):
    """The error is printed with the name of the field."""
    error = status(3, "FIELD_INVALID", "1079p is not a quality", quality="use 1080p")
    gateway.responses["POST /api/v1/download"] = [(400, error)]
    result = download(gateway, tmp_path)
    assert result.exit_code == 2
    assert "FIELD_INVALID: 1079p is not a quality (quality)" in result.stderr


def test_error_is_json_with_json(gateway, tmp_path):
    """With --json an error is a JSON object too."""
    gateway.responses["POST /api/v1/download"] = [(400, status(3, "URL_INVALID", "no URL", url="no URL"))]
    result = download(gateway, tmp_path, "--json")
    assert lines(result)[-1]["reason"] == "URL_INVALID"
    assert lines(result)[-1]["fields"] == {"url": "no URL"}


def test_unavailable_server_is_retried(gateway, tmp_path):
    """A single 503 is not a failure, and the repeated create has the same key."""
    gateway.responses["POST /api/v1/download"] = [
        (503, status(14, "SERVICE_UNAVAILABLE", "jobs does not answer"))
    ]
    assert download(gateway, tmp_path).exit_code == 0
    first, second = [h["idempotency-key"] for path, h, _ in gateway.requests if path.startswith("POST")]
    assert first == second


def test_no_server(tmp_path):
    """Without a server the error is one line with a hint, and no traceback."""
    result = CliRunner().invoke(reelhaul, ["jobs", "list", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "SERVICE_UNAVAILABLE: http://127.0.0.1:1 does not answer" in result.stderr
    assert "reelhaul up" in result.stderr
    assert "Traceback" not in result.output


def test_other_server(gateway, tmp_path):
    """A response that is not a Status in JSON is a clear error."""
    gateway.responses["GET /api/v1/status/x"] = [(418, {"teapot": True})]
    result = run(gateway, "jobs", "get", "x")
    assert result.exit_code == 1
    assert "HTTP 418" in result.stderr


def test_interrupted_file_is_resumed(gateway, tmp_path):
    """Received bytes are kept, and the rest is requested by Range."""
    gateway.truncate_after = [300_000, 200_000]
    assert download(gateway, tmp_path).exit_code == 0
    ranges = [h.get("range") for path, h, _ in gateway.requests if "/artifacts/" in path]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_redirected_download_is_resumed_from_new_links(gateway, tmp_path):
    """A gateway may redirect to a signed link: an interrupted one is resumed by Range, from a new link."""
    with running_gateway() as media:
        media.truncate_after = [300_000]
        gateway.redirect_to = f"{media.url}/v1/artifacts/a?signature=abc"
        assert download(gateway, tmp_path).exit_code == 0
    for server in (gateway, media):
        ranges = [h.get("range") for path, h, _ in server.requests if "/artifacts/" in path]
        assert ranges == [None, "bytes=300000-"]
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_redirected_download_sends_no_credential(gateway, tmp_path):
    """The key that is sent to the gateway stays there; a link that redirects again is not followed."""
    file = File(**{name: value for name, value in FILE.items() if name not in ("kind", "media_type")})
    key = create_key_string()
    with running_gateway() as media, Client(gateway.url, api_key=key) as client:
        gateway.redirect_to = f"{media.url}/v1/artifacts/a?signature=abc"
        client.save_files([file], tmp_path)
        assert gateway.requests[0][1]["authorization"] == f"Bearer {key}"
        assert key not in str(media.requests)
        media.redirect_to = gateway.url
        with pytest.raises(CallFailed, match="HTTP 307"):
            client.save_files([file], tmp_path / "again")


def test_corrupt_file_is_not_kept(gateway, tmp_path):
    """A file of the right size with a wrong byte is not saved, and the exit code is 1."""
    gateway.content = b"x" + CONTENT[1:]
    result = download(gateway, tmp_path)
    assert result.exit_code == 1
    assert "SHA-256" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_damaged_part_file_is_replaced(gateway, tmp_path):
    """A part file of an earlier run with other content is discarded."""
    (tmp_path / f".{FILE['sha256'][:16]}.A video.mp4.part").write_bytes(b"damage")
    assert download(gateway, tmp_path).exit_code == 0
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_existing_files_are_kept(gateway, tmp_path):
    """Another file is kept and ours numbered, unless --on-exists differs; the same is not saved twice."""
    (tmp_path / "A video.mp4").write_text("mine")
    download(gateway, tmp_path)
    assert (tmp_path / "A video.mp4").read_text() == "mine"
    assert (tmp_path / "A video (2).mp4").read_bytes() == CONTENT
    download(gateway, tmp_path, "--on-exists", "replace")
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT
    download(gateway, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".bashrc", "a/b\\c.mp4", "x\x1b[31m.mp4", "con.mp4", ""]
)
def test_unsafe_file_names(gateway, tmp_path, name):
    """A file is saved inside the folder under a visible, plain name, whatever the server calls it."""
    folder = tmp_path / "in" / "here"
    gateway.connections = [[{"completed": {**DONE, "files": [{**FILE, "name": name}]}}]]
    assert download(gateway, folder).exit_code == 0
    (saved,) = folder.iterdir()
    assert not saved.name.startswith(".")
    assert saved.name.isprintable()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [saved]


def test_long_names_keep_their_extension(gateway, tmp_path):
    """A name of 300 bytes is shortened to one that every file system accepts."""
    name = "ä" * 300 + ".mp4"
    gateway.connections = [[{"completed": {**DONE, "files": [{**FILE, "name": name}]}}]]
    assert download(gateway, tmp_path).exit_code == 0
    (saved,) = tmp_path.iterdir()
    assert len(saved.name.encode()) <= 200
    assert saved.suffix == ".mp4"


def test_ctrl_c_cancels_the_job(gateway, tmp_path):
    """The exit code is 130, the job is cancelled at the server, and the last line says so."""
    gateway.connections = [[{"snapshot": RUNNING}, progress(10), {"hang": True}]]
    code, lines = interrupt_download(gateway, tmp_path)
    assert code == 130
    assert gateway.cancelled.is_set()
    assert (lines[-1]["type"], lines[-1]["status"]) == ("cancelled", "CANCELLED")


def interrupt_download(gateway, folder, *options: str) -> tuple[int, list[dict[str, object]]]:
    """Interrupt a download by Ctrl-C while it is watched; return its exit code and output lines."""
    command = [sys.executable, "-m", "reelhaul.cli", "download", "https://a.example/v", *options]
    command += ["-o", str(folder), "--server", gateway.url, "--json"]
    # Background processes of a shell ignore Ctrl-C, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert gateway.watched.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    return process.returncode, [json.loads(line) for line in out.splitlines()]


def test_ctrl_c_ends_a_recording(gateway, tmp_path):
    """The recording is not discarded: its file is saved as if the stream had ended."""
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}], [{"completed": DONE}]]
    code, lines = interrupt_download(gateway, tmp_path, "--live", "record")
    assert code == 0
    assert not gateway.cancelled.is_set()
    assert f"POST /api/v1/stop_recording/{JOB}" in [request for request, _, _ in gateway.requests]
    assert {"recording_stopped", "saved"} <= {line["type"] for line in lines}
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


def test_ctrl_c_before_the_recording(gateway, tmp_path):
    """If nothing is recorded yet, the job is cancelled."""
    conflict = {"code": 9, "message": "it is QUEUED and records nothing now", "details": []}
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}]]
    gateway.responses[f"POST /api/v1/stop_recording/{JOB}"] = [(400, conflict)]
    code, lines = interrupt_download(gateway, tmp_path, "--live", "wait")
    assert (code, lines[-1]["type"]) == (130, "cancelled")
    assert gateway.cancelled.is_set()


def test_no_wait(gateway, tmp_path):
    """--no-wait creates the job and exits."""
    result = download(gateway, tmp_path, "--no-wait")
    assert result.exit_code == 0
    assert JOB in result.stdout
    assert len(gateway.requests) == 1


def test_jobs_list_limit(gateway):
    """Further pages are fetched by token; each job is a line of tab-separated fields."""
    result = run(gateway, "jobs", "list", "--status", "failed", "--limit", "3")
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == [
        "FAILED",
        "SUCCEEDED",
        "SUCCEEDED",
    ]
    assert "status=FAILED" in gateway.requests[0][0]
    assert "page_token=t" in gateway.requests[1][0]


def test_jobs_get(gateway):
    """A failed job is shown with its reason; jobs/{id} is accepted as well as the id."""
    gateway.job = FAILED
    result = run(gateway, "jobs", "get", f"jobs/{JOB}")
    assert "MEDIA_NOT_FOUND: the video was removed" in result.stdout
    assert gateway.requests[0][0] == f"GET /api/v1/status/{JOB}"


def test_jobs_watch_failed_job(gateway):
    """Watching a job that fails exits with 1."""
    gateway.connections = [[{"snapshot": RUNNING}, {"failed": CANCELLED}]]
    assert run(gateway, "jobs", "watch", JOB).exit_code == 1


def test_jobs_save(gateway, tmp_path):
    """The files of a finished job can be saved later."""
    assert run(gateway, "jobs", "save", JOB, "-o", str(tmp_path)).exit_code == 0
    assert (tmp_path / "A video.mp4").read_bytes() == CONTENT


PLAYLIST = {**RUNNING, "title": "A list", "status": "SUCCEEDED", "batch_id": JOB, "job_count": 2}


def entry(number: int, **fields: Any) -> dict[str, Any]:
    """Return the job of an entry of PLAYLIST, with a file."""
    file = {**FILE, "name": f"Entry {number}.mp4"}
    ids = {"job_id": JOB.replace("-7000-", f"-700{number}-"), "batch_id": JOB}
    return {**DONE, **ids, "title": f"Entry {number}", "files": [file], **fields}


@pytest.mark.parametrize("command", ["save", "download"])
def test_playlist_saves_the_files_of_its_entries(gateway, tmp_path, command):
    """`jobs save` and `download --playlist` save the files of all entries, page by page."""
    gateway.job, gateway.connections = PLAYLIST, [[{"snapshot": PLAYLIST}, {"completed": PLAYLIST}]]
    gateway.responses["GET /api/v1/jobs"] = [
        (200, {"jobs": [PLAYLIST, entry(1)], "next_page_token": "t"}),
        (200, {"jobs": [entry(2)]}),
    ]
    if command == "save":
        result = run(gateway, "jobs", "save", JOB, "-o", str(tmp_path))
    else:
        result = download(gateway, tmp_path, "--playlist", "--max-entries", "2")
        assert gateway.requests[0][2] == {"url": "https://a.example/v", "playlist": True, "max_entries": 2}
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Entry 1.mp4", "Entry 2.mp4"]
    pages = [path for path, _, _ in gateway.requests if path.startswith("GET /api/v1/jobs?")]
    assert [f"batch_id={JOB}" in page for page in pages] == [True, True]


def test_reader_that_goes_away(gateway, tmp_path):
    """If the reader of the paths ends, the command ends too, without a traceback."""
    gateway.responses["GET /api/v1/jobs"] = [(200, {"jobs": [PLAYLIST, entry(1), entry(2)]})]
    command = [sys.executable, "-m", "reelhaul.cli", "download", "https://a.example/v", "--playlist"]
    options = ["--server", gateway.url, "-o", str(tmp_path)]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([*command, *options], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_entries_without_files(gateway, tmp_path):
    """An entry that failed is named and makes the exit code 1; the others are saved."""
    gateway.job = PLAYLIST
    failed = entry(1, status="FAILED", files=[], error=FAILED["error"])
    gateway.responses["GET /api/v1/jobs"] = [(200, {"jobs": [failed, entry(2)]})]
    result = run(gateway, "jobs", "save", JOB, "-o", str(tmp_path))
    assert result.exit_code == 1
    assert "not saved: Entry 1 is failed: MEDIA_NOT_FOUND: the video was removed" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["Entry 2.mp4"]


def test_playlist_progress(gateway):
    """The progress of a playlist counts its jobs; a lost worker is named instead of a rate."""
    counts = {"SUCCEEDED": 3, "FAILED": 1, "RUNNING": 6}
    first = {"progress": {"stage": "DOWNLOADING", "progress_percent": 40, "job_counts": counts}}
    lost = {"progress": {"stage": "WAITING", "progress_percent": 40, "wait_reason": "WORKER_LOST"}}
    snapshot = {"snapshot": {**PLAYLIST, "stage": "DOWNLOADING", "job_counts": {"QUEUED": 10}}}
    gateway.connections = [[snapshot, first, lost, {"completed": PLAYLIST}]]
    result = run(gateway, "jobs", "watch", JOB)
    assert "downloading  0 of 10 jobs" in result.stderr
    assert "waiting (worker lost)" in result.stderr
    gateway.connections = [[first, {"completed": PLAYLIST}]]
    assert "40%  3 of 10 jobs, 1 failed" in run(gateway, "jobs", "watch", JOB).stderr
    gateway.job = {**PLAYLIST, "job_counts": counts}
    assert "3 of 10 jobs, 1 failed" in run(gateway, "jobs", "get", JOB).stdout


def test_progress_while_storage_is_away(gateway):
    """An upload that waits for storage says why."""
    upload = {"stage": "UPLOADING", "progress_percent": 95}
    away = {"progress": {**upload, "detail": "waiting: S3 does not answer"}}
    gateway.connections = [[{"progress": upload}, away, {"completed": PLAYLIST}]]
    result = run(gateway, "jobs", "watch", JOB)
    assert "uploading (waiting: S3 does not answer)" in result.stderr
    snapshot = {**PLAYLIST, "status": "RUNNING", **away["progress"]}
    gateway.connections = [[{"snapshot": snapshot}, {"completed": PLAYLIST}]]
    assert "uploading (waiting: S3 does not answer)" in run(gateway, "jobs", "watch", JOB).stderr


def test_job_id_is_one_path_segment(gateway):
    """A job id that would lead to another path is rejected before any call."""
    result = run(gateway, "jobs", "get", "../../v1/jobs?x=")
    assert (result.exit_code, gateway.requests) == (2, [])
    assert "job_id: must be of the form {id}" in result.stderr
    run(gateway, "jobs", "get", "jobs?x=%")
    assert gateway.requests[0][0] == "GET /api/v1/status/jobs%3Fx%3D%25"


def test_probe(gateway):
    """Titles are untrusted: they cannot control the terminal."""
    result = run(gateway, "probe", "https://a.example/v")
    assert "137" in result.stdout
    assert "1:01" in result.stdout
    assert "\x1b" not in result.stdout


def test_client_commands_need_no_server_packages():
    """Without the server packages only their commands fail, with the package to install."""
    code = "import sys; sys.modules['reelhaul_runtime'] = None; from reelhaul.cli import main; main()"
    command = [sys.executable, "-c", code]
    result = subprocess.run([*command, "up"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'reelhaul[all]'" in result.stderr
    listed = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    )
    assert "download" in listed.stdout
