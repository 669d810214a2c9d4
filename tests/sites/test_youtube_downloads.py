"""An unpatched yt-dlp downloads from the stand-in, and gets the same failures as from YouTube."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest
from tests.sites import tools
from tests.sites.conftest import RunYtDlp
from tests.sites.youtube.site import YouTube


def test_merged_download(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """The best mp4 is video and audio merged in one file, with chapters."""
    result = run_yt_dlp(
        "-f", "bv[ext=mp4]+ba[ext=m4a]", "--embed-chapters", youtube.watch_url("plain1080"), into=tmp_path
    )
    assert result.returncode == 0, result.stderr
    file = tmp_path / "plain1080__.mp4"
    assert tools.probe(file).height == 1080
    assert {"video": "h264", "audio": "aac"}.items() <= tools.probe(file).codecs.items()


def test_single_stream_download(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """A single stream has the library's bytes; one of more than 10 MiB is fetched in chunks."""
    result = run_yt_dlp("-f", "137", "--fixup", "never", youtube.watch_url("heavy1080"), into=tmp_path)
    assert result.returncode == 0, result.stderr
    assert tools.file_digest(tmp_path / "heavy1080__.mp4") == youtube.digest("heavy1080", 137)
    assert youtube.count("/videoplayback", "heavy1080") >= 3


def test_audio_differs_by_language(youtube: YouTube) -> None:
    """Each language of a dubbed video has its own audio."""
    assert len({youtube.digest("dubbed", 140, language) for language in ("de", "en", "fr")}) == 3


def test_signed_urls_are_solved(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """yt-dlp's own solver solves signatures and ``n`` in a real JavaScript runtime."""
    result = run_yt_dlp("-f", "18", youtube.watch_url("signed"), into=tmp_path)
    assert "Solving JS challenges using deno" in result.stdout
    assert (tmp_path / "signed_____.mp4").exists(), result.stderr


def test_subtitle_files(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """Automatic captions roll, with two WebVTT cues for each line; manual subtitles do not."""
    options = ("--write-subs", "--write-auto-subs", "--sub-langs", "en,en-orig,fr", "--sub-format", "vtt")
    result = run_yt_dlp("--skip-download", *options, youtube.watch_url("talk"), into=tmp_path)
    assert result.returncode == 0, result.stderr
    cues = {path.name: path.read_text().count(" --> ") for path in tmp_path.iterdir()}
    assert cues == {"talk_______.en.vtt": 20, "talk_______.en-orig.vtt": 40, "talk_______.fr.vtt": 20}
    assert "[fr] this is line one" in (tmp_path / "talk_______.fr.vtt").read_text()


@pytest.mark.parametrize("format_", ["json3", "srv1", "srv2", "srv3", "ttml", "srt", "vtt"])
def test_subtitle_formats(http_client: httpx.Client, format_: str) -> None:
    """Subtitles in each format that YouTube has contain all lines."""
    query = {"v": "talk_______", "lang": "en", "fmt": format_}
    text = http_client.get("https://www.youtube.com/api/timedtext", params=query).text
    assert text.count("this is line") == 20
    assert "this is line twenty" in text


def test_subtitles_refused(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """A 429 for subtitles makes yt-dlp fail the whole download."""
    result = run_yt_dlp("--write-subs", "-f", "18", youtube.watch_url("subs429"), into=tmp_path)
    assert "Unable to download video subtitles for 'en': HTTP Error 429" in result.stderr


@pytest.mark.parametrize("name", ["flaky503", "reset"])
def test_temporary_failures(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path, name: str) -> None:
    """yt-dlp retries errors and resets that end after two requests."""
    result = run_yt_dlp("-f", "134", "--fixup", "never", youtube.watch_url(name), into=tmp_path)
    assert result.returncode == 0, result.stderr
    file = tmp_path / f"{name.ljust(11, '_')}.mp4"
    assert tools.file_digest(file) == youtube.digest(name, 134)


def test_media_forbidden(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """Media that respond with 403 do so again in the next download."""
    for _ in range(2):
        assert "HTTP Error 403: Forbidden" in run_yt_dlp(youtube.watch_url("media403"), into=tmp_path).stderr


@pytest.mark.parametrize(("name", "itag"), [("expired", "134"), ("expiring", "137")])
def test_expired_urls(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path, name: str, itag: str) -> None:
    """After a new extraction URLs work that were refused before, at once or within the file."""
    arguments = ("-f", itag, "--fixup", "never", youtube.watch_url(name))
    assert "HTTP Error 403: Forbidden" in run_yt_dlp(*arguments, into=tmp_path).stderr
    assert run_yt_dlp(*arguments, into=tmp_path).returncode == 0
    file = tmp_path / f"{name.ljust(11, '_')}.mp4"
    assert tools.file_digest(file) == youtube.digest(name, int(itag))


def test_advertisement(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """yt-dlp waits for a video until the advertisement before it could be skipped."""
    result = run_yt_dlp("-f", "18", youtube.watch_url("preroll"), into=tmp_path)
    assert "Sleeping" in result.stdout
    assert result.returncode == 0, result.stderr


def test_premiere(run_yt_dlp: RunYtDlp, youtube: YouTube) -> None:
    """yt-dlp can wait for an event that starts soon."""
    result = run_yt_dlp("--wait-for-video", "1-2", "--print", "title", youtube.watch_url("premiere"))
    assert result.stdout.splitlines()[-1] == "A moving picture"


def test_recording_a_broadcast(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """A broadcast is recorded from the current position until it ends."""
    result = run_yt_dlp(youtube.watch_url("live", copy=1), into=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 3 <= tools.probe(next(tmp_path.iterdir())).duration <= 10


def test_signed_in(youtube: YouTube, run_yt_dlp: RunYtDlp, tmp_path: Path) -> None:
    """Account cookies give access to a private video; expired ones are reported as such."""
    row = ".youtube.com\tTRUE\t/\tTRUE\t2082758400"
    jar = tmp_path / "cookies.txt"

    def print_id(session: str) -> subprocess.CompletedProcess[str]:
        rows = [f"{row}\tLOGIN_INFO\t{session}", f"{row}\tSAPISID\tabc/def", ""]
        jar.write_text("\n".join(["# Netscape HTTP Cookie File", *rows]))
        return run_yt_dlp("--cookies", str(jar), "--print", "id", youtube.watch_url("private"))

    assert print_id("good").stdout == "private____\n"
    assert "cookies are no longer valid" in print_id("expired").stderr
