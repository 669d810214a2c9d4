"""The command line with the whole suite: from URLs to files, and what it shows meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import httpx
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from tests.sites import tools
from tests.sites.site import Site
from tests.suite.downloads import create_download, download, wait_for_end
from tests.suite.suite import Suite

from reelhaul.cli.commands import reelhaul

# The 360p video takes four seconds: time for several polls and many frames.
_SLOW = "media.rate=200000"


@pytest.fixture(autouse=True)
def without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder without .env, of a user without profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def cli(suite: Suite, *arguments: str, text: str | None = None) -> Result:
    result = CliRunner().invoke(reelhaul, [*arguments, "--server", suite.address("gateway")], input=text)
    assert "Traceback" not in result.output
    return result


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fields(line: str) -> list[str]:
    return line.split("\t")


def test_urls_of_a_file(suite: Suite, site: Site, tmp_path: Path) -> None:
    """The URLs of a file and of standard input are downloaded together; one that fails stops no other."""
    urls = [site.url("/watch/video?token=file1"), site.url("/watch/several?token=file2")]
    (tmp_path / "urls.txt").write_text(f"# a comment\n\n{urls[0]}\n{urls[0]}\n{site.url('/watch/missing')}\n")
    result = cli(suite, "download", "-", "-a", "urls.txt", "-o", "videos", text=f"{urls[1]}\n")
    assert result.exit_code == 1, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert sorted(paths) == sorted(Path("videos").iterdir())
    digests = {site.digest("/media/1080.mp4"), site.digest("/media/720.mp4")}
    assert {tools.file_digest(path) for path in paths} == digests
    assert "MEDIA_NOT_FOUND" in result.stderr
    assert "2 of 3 done, 1 failed" in result.stderr.splitlines()[-1]
    batch = re.findall(r"3 jobs, batch (\S+)", result.stderr)
    assert len(cli(suite, "jobs", "save", *batch, "-o", "again").stdout.splitlines()) == 2
    assert cli(suite, "jobs", "watch", *batch).exit_code == 1


def test_batch_is_all_or_nothing(suite: Suite, site: Site) -> None:
    """With --batch an invalid URL rejects all; without it the others are downloaded."""
    urls = [site.url("/watch/video?token=batch"), "file:///etc/passwd"]
    rejected = cli(suite, "download", "--batch", "--no-wait", *urls)
    assert rejected.exit_code == 2
    assert "URL_INVALID" in rejected.stderr
    assert cli(suite, "jobs", "list", "--url", "token=batch").stdout == ""
    partial = cli(suite, "download", "--no-wait", "-q", "360p", *urls)
    assert partial.exit_code == 1
    assert "rejected: file:///etc/passwd" in partial.stderr
    (job_id,) = partial.stdout.split()
    assert wait_for_end(suite, job_id)["completed"]["status"] == "SUCCEEDED"


def test_playlist_with_its_jobs(suite: Suite, site: Site, tmp_path: Path) -> None:
    """A playlist's entries are saved as they are complete; --json reports each change of each job."""
    url = site.url("/watch/several?token=playlist")
    result = cli(suite, "download", "--playlist", url, "--json", "-o", "videos")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    saved = [event["path"] for event in events if event["type"] == "saved"]
    assert {tools.file_digest(Path(path)) for path in saved} == {
        site.digest("/media/720.mp4"),
        site.digest("/media/360.mp4"),
    }
    playlist = events[0]["job_id"]
    ended = [e["job_id"] for e in events if e["type"] == "job" and e["status"] == "SUCCEEDED"]
    assert len(ended) == 3
    assert events[-1] == {
        "type": "summary",
        "message": "2 of 2 done",
        "job_counts": {"SUCCEEDED": 2},
    }
    again = cli(suite, "jobs", "save", playlist, "-o", "videos")
    assert sorted(again.stdout.splitlines()) == sorted(saved)
    assert again.stderr.count("already there") == 2
    assert len(list((tmp_path / "videos").iterdir())) == 2


def test_existing_files(suite: Suite, site: Site, tmp_path: Path) -> None:
    """A video and its subtitles get the same number, are skipped, or replace what is there, together."""
    job = download(suite, site.url("/watch/video?token=exists"), quality="360p", subtitle_languages=["en"])
    video, subtitles = (file["name"] for file in job["files"])
    (tmp_path / subtitles).write_text("mine")
    arguments = ["jobs", "save", job["job_id"], "--on-exists"]
    assert cli(suite, *arguments, "skip").stdout == ""
    numbered = [Path(line).name for line in cli(suite, *arguments, "number").stdout.splitlines()]
    stem = Path(video).stem
    assert numbered == [f"{stem} (2).mp4", f"{stem} (2).en.srt"]
    assert (tmp_path / subtitles).read_text() == "mine"
    assert cli(suite, *arguments, "replace").exit_code == 0
    assert (tmp_path / subtitles).read_text() != "mine"


def test_unwritable_folder_is_refused_before_the_job(suite: Suite, site: Site, tmp_path: Path) -> None:
    """A folder that cannot be written ends the command before a job exists."""
    (tmp_path / "file").write_text("not a folder")
    url = site.url("/watch/video?token=unwritable")
    result = cli(suite, "download", url, "-o", "file/videos")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert cli(suite, "jobs", "list", "--url", "token=unwritable").stdout == ""


def run_at_terminal(columns: int, arguments: Sequence[str], **environment: str) -> tuple[int, str]:
    """Run the command line in a terminal of *columns*; return its exit code and all that it wrote."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "reelhaul.cli", *arguments],
        env=variables | {"TERM": "xterm-256color"} | environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        output = b""
        while True:
            try:
                output += os.read(master, 65536)
            except OSError:
                break
    os.close(master)
    return process.returncode, output.decode()


def drawn_lines(output: str) -> list[str]:
    """Return all lines that a terminal has shown one after another."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output))


@pytest.mark.parametrize("columns", [40, 120])
def test_display_at_a_terminal(suite: Suite, site: Site, columns: int) -> None:
    """Each running job has a live line, as wide as the terminal at most; the saved files stay below."""
    urls = [site.url(f"/watch/video?token=tty{columns}{number}&{_SLOW}") for number in (1, 2)]
    arguments = ["download", *urls, "-q", "360p", "-o", "videos", "--server", suite.address("gateway")]
    code, output = run_at_terminal(columns, arguments)
    assert code == 0, output
    lines = drawn_lines(output)
    live = [line for line in lines if re.match("[\u2800-\u28ff]", line)]
    assert max(map(cell_len, live)) <= columns
    assert any(re.search(r"\d%", line) for line in live)
    assert any(re.search("0 of 2 done, [12] running", line) for line in lines)
    assert sum(bool(re.match("(saved|already there:) videos/", line)) for line in lines) == 2
    assert "2 of 2 done" in "".join(lines[-3:])


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_terminals(suite: Suite, site: Site, variables: dict[str, str]) -> None:
    """With NO_COLOR there are no colours, and at a dumb terminal no sequences at all."""
    url = site.url(f"/watch/video?token={'-'.join(variables)}")
    arguments = ["download", url, "-q", "360p", "--server", suite.address("gateway")]
    code, output = run_at_terminal(80, arguments, **variables)
    assert code == 0, output
    assert any(line.startswith("saved ") for line in drawn_lines(output))
    # Bold, dim and the like are no colours; 3x and 4x are.
    assert re.findall(r"\x1b\[[0-9;]*[349][0-9](;[0-9;]*)?m", output) == []
    assert ("\x1b" in output) == ("NO_COLOR" in variables)


def interrupt(suite: Suite, *arguments: str) -> list[dict[str, Any]]:
    """Download and press Ctrl-C once the first video is being downloaded; return the events."""
    command = [sys.executable, "-m", "reelhaul.cli", "download", *arguments, "--json"]
    # Background processes of a shell ignore Ctrl-C, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*command, "--server", suite.address("gateway")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        events: list[dict[str, Any]] = []
        is_interrupted = False
        for line in process.stdout:
            events.append(json.loads(line))
            is_playlist = events[-1].get("batch_id") == events[-1].get("job_id")
            if events[-1].get("status") == "RUNNING" and not is_playlist and not is_interrupted:
                is_interrupted = True
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, events
    return events


def test_ctrl_c_cancels_all_jobs(suite: Suite, site: Site) -> None:
    """Ctrl-C cancels what is not complete; the exit code is 130."""
    urls = [site.url(f"/watch/video?token=interrupt{number}&media.rate=20000") for number in (1, 2)]
    *_, last = interrupt(suite, *urls)
    assert last["type"] == "cancelled"
    for job_id in last["job_ids"]:
        assert wait_for_end(suite, job_id)["failed"]["status"] == "CANCELLED"


def test_ctrl_c_cancels_a_playlist(suite: Suite, site: Site) -> None:
    """Ctrl-C cancels the jobs of a playlist too, whether all of its entries are known or not."""
    url = site.url("/watch/several?token=interrupt&media.rate=20000")
    created, *_, last = interrupt(suite, "--playlist", url)
    assert (last["type"], last["job_id"]) == ("cancelled", created["job_id"])
    query = {"batch_id": created["job_id"]}
    jobs = suite.http.get("/api/v1/jobs", params=query).json()["jobs"]
    entries = [job["job_id"] for job in jobs if job["job_id"] != created["job_id"]]
    assert entries
    for job_id in entries:
        assert wait_for_end(suite, job_id)["failed"]["status"] == "CANCELLED"


def test_life_of_a_job(suite: Suite, site: Site) -> None:
    """A job is listed with its date, paused, resumed, shown, explained by its events, and deleted."""
    url = site.url("/watch/video?token=life")
    job_id = cli(suite, "download", url, "-q", "360p", "--at", "1h", "--no-wait").stdout.strip()
    listed = fields(cli(suite, "jobs", "list", "--url", "token=life", "--since", "1h").stdout.strip())
    assert listed[:2] == [job_id, "QUEUED"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", listed[2])
    assert listed[4] == "SCHEDULED"
    assert "PAUSED" in cli(suite, "jobs", "pause", job_id).stdout
    assert "QUEUED" in cli(suite, "jobs", "resume", job_id).stdout
    assert "CANCELLED" in cli(suite, "jobs", "cancel", job_id, "--reason", "not needed").stdout
    assert "not needed" in cli(suite, "jobs", "events", job_id).stdout
    assert cli(suite, "jobs", "delete", job_id).exit_code == 0
    gone = cli(suite, "jobs", "show", job_id)
    assert gone.exit_code == 1
    assert "reelhaul jobs list" in gone.stderr


def test_attempts_and_events(suite: Suite, site: Site) -> None:
    """The attempts of a job and what happened to it are listed in the order of time."""
    job = download(suite, site.url("/watch/video?token=attempts"), quality="360p")
    number, state, *_ = fields(cli(suite, "jobs", "attempts", job["job_id"]).stdout.splitlines()[0])
    assert (number, state) == ("1", "succeeded")
    events = cli(suite, "jobs", "events", "--follow", job["job_id"]).stdout.splitlines()
    assert [event.split()[2] for event in events] == ["created", "attempt", "attempt", "succeeded"]


def test_several_jobs_at_once(suite: Suite, site: Site) -> None:
    """A change of several jobs is made to each; one that cannot be changed is named and stops no other."""
    url = site.url("/watch/video?token=several")
    job_id = cli(suite, "download", url, "--at", "1h", "--no-wait").stdout.strip()
    unknown = "01990000-0000-7000-8000-000000000000"
    result = cli(suite, "jobs", "cancel", unknown, job_id)
    assert result.exit_code == 1
    assert "RESOURCE_NOT_FOUND" in result.stderr
    assert result.stdout == f"{job_id}\tcancelled\n"


def test_schedules(suite: Suite, site: Site) -> None:
    """A schedule is created from the options of a download, run, paused, resumed and deleted."""
    url = site.url("/watch/several?token=schedule")
    options = ["--cron", "@daily", "--time-zone", "Europe/Berlin", "--id", "nightly", "--new-entries-only"]
    created = cli(suite, "schedules", "create", url, *options, "-q", "360p", "--label", "a=b")
    assert created.exit_code == 0, created.output
    assert "@daily (Europe/Berlin)" in created.stdout
    assert fields(cli(suite, "schedules", "list").stdout.strip())[:2] == ["nightly", "enabled"]
    assert "paused" in cli(suite, "schedules", "pause", "nightly").stdout
    job_id = cli(suite, "schedules", "run", "nightly").stdout.strip()
    completed = wait_for_end(suite, job_id)["completed"]
    assert completed["labels"] == {"a": "b"}
    assert "2 entries" in cli(suite, "schedules", "show", "nightly").stdout
    assert "enabled" in cli(suite, "schedules", "resume", "nightly").stdout
    assert cli(suite, "schedules", "delete", "nightly").exit_code == 0
    assert cli(suite, "schedules", "list").stdout == ""
    refused = cli(suite, "schedules", "create", url, "--cron", "never")
    assert refused.exit_code == 2
    assert "FIELD_INVALID" in refused.stderr


def test_stats(suite: Suite, site: Site) -> None:
    """Statistics have counts and plots, for people and as JSON."""
    download(suite, site.url("/watch/video?token=stats"), quality="360p", labels={"test": "stats"})
    arguments = ["stats", "--since", "1h", "--filter", 'labels.test = "stats"']
    shown = cli(suite, *arguments).stdout
    assert shown.startswith("1 job from ")
    assert re.search(r"succeeded 1 █+", shown)
    assert "bytes per minute, up to" in shown
    summary = json.loads(cli(suite, *arguments, "--step", "30m", "--json").stdout)
    assert summary["total"]["stateCounts"] == {"SUCCEEDED": "1"}
    assert len(summary["series"]) in (2, 3)


def test_formats_and_dry_run(suite: Suite, site: Site) -> None:
    """What a URL offers, and what a download would deliver, is shown without a job."""
    url = site.url("/watch/video?token=formats")
    rows = [fields(line) for line in cli(suite, "formats", url).stdout.splitlines()]
    assert [row[2] for row in rows] == ["360p", "720p", "1080p"]
    estimate = cli(suite, "download", "--dry-run", "-q", "720p", url).stdout
    assert "720p mp4" in estimate
    assert cli(suite, "jobs", "list", "--url", "token=formats").stdout == ""


@pytest.fixture(scope="module")
def playlist(suite: Suite, site: Site) -> dict[str, Any]:
    """A playlist whose two entries have succeeded."""
    job_id = create_download(suite, site.url("/watch/several?token=export"), playlist=True)
    completed: dict[str, Any] = wait_for_end(suite, job_id)["completed"]
    return completed


def test_m3u(suite: Suite, site: Site, playlist: dict[str, Any]) -> None:
    """A playlist for players: each link works without a key, and names are those of saved files."""
    result = cli(suite, "export", "m3u", playlist["job_id"])
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert text.startswith("#EXTM3U\n#EXTINF:")
    links = [line for line in text.splitlines() if not line.startswith("#")]
    digests = {sha256(httpx.get(link, trust_env=False).content) for link in links}
    assert digests == {site.digest("/media/720.mp4"), site.digest("/media/360.mp4")}
    names = cli(suite, "export", "m3u", playlist["job_id"], "--names").stdout.splitlines()[2::2]
    cli(suite, "jobs", "save", playlist["job_id"], "-o", "videos")
    assert {Path("videos", name).exists() for name in names} == {True}


def test_feed(suite: Suite, playlist: dict[str, Any], tmp_path: Path) -> None:
    """A podcast feed: each item has an enclosure with its size, whose link works without a key."""
    assert (
        cli(suite, "export", "feed", playlist["job_id"], "--title", "A & B", "-o", "feed.xml").exit_code == 0
    )
    channel = Xml.parse(tmp_path / "feed.xml").getroot().find("channel")
    assert channel is not None
    assert channel.findtext("title") == "A & B"
    enclosures = [item.find("enclosure") for item in channel.findall("item")]
    assert len(enclosures) == 2
    for enclosure in enclosures:
        assert enclosure is not None
        assert enclosure.get("type") == "video/mp4"
        size = len(httpx.get(str(enclosure.get("url")), trust_env=False).content)
        assert enclosure.get("length") == str(size)


def test_library_of_a_media_server(
    suite: Suite, site: Site, playlist: dict[str, Any], tmp_path: Path
) -> None:
    """A playlist becomes a show with episodes, a single video a movie; NFO files have the metadata."""
    job = download(
        suite, site.url("/watch/demo?token=nfo"), quality="360p", subtitle_languages=["en"], thumbnail=True
    )
    assert cli(suite, "export", "nfo", playlist["job_id"], job["job_id"], "-o", "library").exit_code == 0
    files = sorted(str(path.relative_to(tmp_path / "library")) for path in tmp_path.rglob("library/**/*.*"))
    assert sum("/Season 01/" in file and file.endswith(".mp4") for file in files) == 2
    assert sum("S01E01" in file for file in files) == 2
    movie = next(file for file in files if file.endswith(".mp4") and "Season" not in file)
    stem = movie.removesuffix(".mp4")
    assert {f"{stem}.nfo", f"{stem}.en.srt", f"{stem}-thumb.jpg"} <= set(files)
    details = Xml.parse(tmp_path / "library" / f"{stem}.nfo").getroot()
    assert (details.tag, details.findtext("title")) == ("movie", job["title"])
    again = cli(suite, "export", "nfo", playlist["job_id"], "-o", "library")
    assert again.stderr.count("already there") == 2


def test_nothing_to_export(suite: Suite) -> None:
    """Without a selection, or for a job without files, the error says so."""
    assert "--schedule or --filter" in cli(suite, "export", "m3u").stderr
    missing = cli(suite, "export", "m3u", "01990000-0000-7000-8000-000000000000")
    assert "RESOURCE_NOT_FOUND" in missing.stderr


def test_open(suite: Suite, site: Site) -> None:
    """`open` has the URL of the console, and of a file a link that a browser shows without a key."""
    assert cli(suite, "open", "--print").stdout == f"{suite.address('gateway')}/\n"
    job = download(suite, site.url("/watch/video?token=open"), quality="360p")
    response = httpx.get(cli(suite, "open", job["job_id"], "--print").stdout.strip(), trust_env=False)
    assert sha256(response.content) == site.digest("/media/360.mp4")
    assert response.headers["content-disposition"].startswith("inline")
    assert cli(suite, "open", job["job_id"], "--file", "7", "--print").exit_code == 1
