"""``make demo``: the whole suite downloads one video while you watch, and the result is checked.

Ends with one line, ``demo ok job=<name> bytes=<n> sha256=<hex> seconds=<s>``, and exit code 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sites import media, tools
from tests.suite.suite import SITE_NETWORK, Suite, SuiteError, running_suite

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = "/watch/demo"
#: What the demo page's best rendition is at the site.
_ORIGINAL = "/media/1080.mp4"
_LANGUAGE = "en"


class DemoError(Exception):
    """The demo did not show what it is to show."""


@dataclass(frozen=True)
class Shown:
    """What the demo has to tell in its last line."""

    job: str
    size: int
    sha256: str


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="download this, and not the demo page of the local site")
    url = parser.parse_args().url
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="reelhaul-demo-"))
    try:
        shown = _shown(url, folder)
    except (DemoError, SuiteError, subprocess.SubprocessError, OSError) as error:
        print(f"demo FAILED: {error}\nsuite log: {folder}/data.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - begun
    print(f"demo ok job={shown.job} bytes={shown.size} sha256={shown.sha256} seconds={seconds:.1f}")
    return 0


def _shown(url: str | None, folder: Path) -> Shown:
    """Download *url*, else the demo page; all processes have ended when it returns."""
    settings = _settings_from_environment()
    with ExitStack() as stack:
        original = None
        if url is None:
            url = stack.enter_context(_site()) + _PAGE
            settings["fetcher_allow_networks"] = _with_site_network(settings)
            original = media.ensure_media()
        suite = stack.enter_context(running_suite(folder / "data", **settings))
        print(f"suite ready in {suite.ready_seconds:.2f} s at {suite.address('gateway')}", flush=True)
        output = folder / "saved"
        own = ["--format", "mp4", "--subtitles", _LANGUAGE] if original else []
        _download(suite, url, output, ["--quality", "1080p", *own])
        return _verified(suite, output, original)


@contextmanager
def _site() -> Iterator[str]:
    """The local media site as a process; gives its origin."""
    if not media.is_cached():
        print("making the local site's media (the first time only)", flush=True)
    command = [sys.executable, "-m", "tests.sites", "--host", "127.0.0.2", "--port", "0"]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, _, origin = process.stdout.readline().strip().partition(" ")
            if word != "site":
                raise DemoError("the local site did not start")
            print(f"local site at {origin}", flush=True)
            yield origin
        finally:
            process.terminate()


def _download(suite: Suite, url: str, output: Path, wishes: list[str]) -> None:
    """Let the command line do it, as a person would; it shows the progress."""
    command = ["download", url, "--server", suite.address("gateway"), "--output", str(output), *wishes]
    print(f"$ reelhaul {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "reelhaul.cli", *command], cwd=_ROOT, check=False).returncode
    if code != 0:
        raise DemoError(f"reelhaul download ended with exit code {code}")


def _verified(suite: Suite, output: Path, original: media.Media | None) -> Shown:
    """Check every saved file against what the API tells, and against the site's media."""
    downloads = suite.http.get("/api/v1/jobs").raise_for_status().json()["jobs"]
    if len(downloads) != 1 or downloads[0]["status"] != "SUCCEEDED":
        raise DemoError(f"one download should have succeeded: {downloads}")
    download, saved = downloads[0], {tools.file_digest(path): path for path in output.iterdir()}
    for file in download["files"]:
        path = saved.get(file["sha256"])
        if path is None or path.stat().st_size != file["size_bytes"]:
            raise DemoError(f"no saved file is what the API tells of {file['name']}: {saved}")
    main_file = download["files"][0]
    video = saved[main_file["sha256"]]
    if original is not None:
        _check_against_site(original, video, output)
    _tell(video)
    return Shown(f"jobs/{download['job_id']}", video.stat().st_size, main_file["sha256"])


def _check_against_site(original: media.Media, video: Path, output: Path) -> None:
    """The video must be the site's byte for byte, and a subtitle say what the site's say."""
    if tools.file_digest(video) != original.digests[_ORIGINAL]:
        raise DemoError(f"{video.name} differs from the site's {_ORIGINAL}")
    if tools.probe(video) != tools.probe(original.file(_ORIGINAL)):
        raise DemoError(f"ffprobe reads {video.name} otherwise than the site's {_ORIGINAL}")
    texts = [path.read_text(errors="replace") for path in output.iterdir() if path != video]
    if not any(all(cue[2][_LANGUAGE] in text for cue in media.CUES) for text in texts):
        raise DemoError("the site's subtitles are in no saved file")


def _tell(video: Path) -> None:
    found = tools.probe(video)
    if not found.codecs.keys() & {"video", "audio"}:
        raise DemoError(f"{video.name} holds neither video nor audio")
    picture = f"{found.height}p " if found.height else ""
    streams = " and ".join(found.codecs.values())
    print(f"verified {video.name}: {picture}{streams}, {found.duration:.1f} s", flush=True)


def _settings_from_environment() -> dict[str, str]:
    """REELHAUL_* as given, but data of its own: a proxy or a CA that a person needs counts here too."""
    prefix, own = "REELHAUL_", "data_dir"
    given = {k.removeprefix(prefix).lower(): v for k, v in os.environ.items() if k.startswith(prefix)}
    given.setdefault("fetcher_allow_networks", "")
    return {name: value for name, value in given.items() if name != own}


def _with_site_network(settings: dict[str, str]) -> str:
    return ",".join(filter(None, [settings["fetcher_allow_networks"], SITE_NETWORK]))


if __name__ == "__main__":
    sys.exit(main())
