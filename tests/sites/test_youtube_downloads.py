"""A real, unpatched yt-dlp downloads from the stand-in, and meets the mishaps that it meets at YouTube."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest
from tests.sites import tools
from tests.sites.conftest import Run
from tests.sites.youtube.site import YouTube


def test_merged_download(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """The best mp4 is picture and sound in one file, with its chapters."""
    done = run(
        "-f", "bv[ext=mp4]+ba[ext=m4a]", "--embed-chapters", youtube.watch_url("plain1080"), into=tmp_path
    )
    assert done.returncode == 0, done.stderr
    file = tmp_path / "plain1080__.mp4"
    assert tools.probe(file).height == 1080
    assert {"video": "h264", "audio": "aac"}.items() <= tools.probe(file).codecs.items()


def test_single_stream_download(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """A stream alone arrives byte by byte as it was made; more than 10 MiB come in pieces."""
    done = run("-f", "137", "--fixup", "never", youtube.watch_url("heavy1080"), into=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tools.file_digest(tmp_path / "heavy1080__.mp4") == youtube.digest("heavy1080", 137)
    assert youtube.count("/videoplayback", "heavy1080") >= 3


def test_languages_sound_different(youtube: YouTube) -> None:
    """Each language of a dubbed video is a sound of its own."""
    assert len({youtube.digest("dubbed", 140, language) for language in ("de", "en", "fr")}) == 3


def test_signed_urls_are_solved(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """Scrambled signatures and ``n`` are solved by yt-dlp's own solver, in a real JavaScript runtime."""
    done = run("-f", "18", youtube.watch_url("signed"), into=tmp_path)
    assert "Solving JS challenges using deno" in done.stdout
    assert (tmp_path / "signed_____.mp4").exists(), done.stderr


def test_subtitle_files(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """Captions roll: each line comes twice in WebVTT; what people wrote does not."""
    wanted = ("--write-subs", "--write-auto-subs", "--sub-langs", "en,en-orig,fr", "--sub-format", "vtt")
    done = run("--skip-download", *wanted, youtube.watch_url("talk"), into=tmp_path)
    assert done.returncode == 0, done.stderr
    cues = {path.name: path.read_text().count(" --> ") for path in tmp_path.iterdir()}
    assert cues == {"talk_______.en.vtt": 20, "talk_______.en-orig.vtt": 40, "talk_______.fr.vtt": 20}
    assert "[fr] this is line one" in (tmp_path / "talk_______.fr.vtt").read_text()


@pytest.mark.parametrize("form", ["json3", "srv1", "srv2", "srv3", "ttml", "srt", "vtt"])
def test_subtitle_forms(browser: httpx.Client, form: str) -> None:
    """Subtitles come in each form that YouTube has, with all their lines."""
    query = {"v": "talk_______", "lang": "en", "fmt": form}
    text = browser.get("https://www.youtube.com/api/timedtext", params=query).text
    assert text.count("this is line") == 20
    assert "this is line twenty" in text


def test_subtitles_refused(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """Too many requests for subtitles end a yt-dlp that was to fetch them, video and all."""
    done = run("--write-subs", "-f", "18", youtube.watch_url("subs429"), into=tmp_path)
    assert "Unable to download video subtitles for 'en': HTTP Error 429" in done.stderr


@pytest.mark.parametrize("name", ["flaky503", "reset"])
def test_mishaps_that_pass(youtube: YouTube, run: Run, tmp_path: Path, name: str) -> None:
    """Errors and resets that end after two requests are survived by trying again."""
    done = run("-f", "134", "--fixup", "never", youtube.watch_url(name), into=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / f"{name.ljust(11, '_')}.mp4"
    assert tools.file_digest(file) == youtube.digest(name, 134)


def test_media_refused(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """Media that are forbidden stay so."""
    for _ in range(2):
        assert "HTTP Error 403: Forbidden" in run(youtube.watch_url("media403"), into=tmp_path).stderr


@pytest.mark.parametrize(("name", "itag"), [("expired", "134"), ("expiring", "137")])
def test_expired_urls(youtube: YouTube, run: Run, tmp_path: Path, name: str, itag: str) -> None:
    """URLs that are refused, at once or in mid-file, are good again after a new extraction."""
    ask = ("-f", itag, "--fixup", "never", youtube.watch_url(name))
    assert "HTTP Error 403: Forbidden" in run(*ask, into=tmp_path).stderr
    assert run(*ask, into=tmp_path).returncode == 0
    file = tmp_path / f"{name.ljust(11, '_')}.mp4"
    assert tools.file_digest(file) == youtube.digest(name, int(itag))


def test_advertisement(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """A video after an advertisement is waited for as long as the advertisement cannot be skipped."""
    done = run("-f", "18", youtube.watch_url("preroll"), into=tmp_path)
    assert "Sleeping" in done.stdout
    assert done.returncode == 0, done.stderr


def test_premiere(run: Run, youtube: YouTube) -> None:
    """What begins in a moment can be waited for."""
    done = run("--wait-for-video", "1-2", "--print", "title", youtube.watch_url("premiere"))
    assert done.stdout.splitlines()[-1] == "A moving picture"


def test_recording_a_broadcast(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """A broadcast is recorded from its edge until it ends."""
    done = run(youtube.watch_url("live", copy=1), into=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 3 <= tools.probe(next(tmp_path.iterdir())).duration <= 10


def test_signed_in(youtube: YouTube, run: Run, tmp_path: Path) -> None:
    """With the cookies of an account a private video is seen; with old ones it is said that they are old."""
    row = ".youtube.com\tTRUE\t/\tTRUE\t2082758400"
    jar = tmp_path / "cookies.txt"

    def asked(session: str) -> subprocess.CompletedProcess[str]:
        rows = [f"{row}\tLOGIN_INFO\t{session}", f"{row}\tSAPISID\tabc/def", ""]
        jar.write_text("\n".join(["# Netscape HTTP Cookie File", *rows]))
        return run("--cookies", str(jar), "--print", "id", youtube.watch_url("private"))

    assert asked("good").stdout == "private____\n"
    assert "cookies are no longer valid" in asked("expired").stderr
