"""``make demo``: download one video with the whole suite, show the progress, and check the result.

The files stay in downloads/demo. The local site sends at the rate of a fast connection, so that there is time
to see the progress. With ``ARGS=--s3`` the suite stores it in the bucket of an S3 server that runs meanwhile.
With ``ARGS=--browser`` the web console downloads it, in Chromium, and a screenshot is left in dist/.
Ends with one line, ``demo ok job=<name> bytes=<n> sha256=<hex> seconds=<s>``, and exit code 0.
"""

from __future__ import annotations

import argparse
import hashlib
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

from tests.s3_server import BUCKET, S3Server, running_s3_server
from tests.sites import media, tools
from tests.suite.suite import SITE_NETWORK, Suite, SuiteError, running_suite

ROOT = Path(__file__).resolve().parents[1]
# 5.4 MB in about four seconds.
_PAGE = "/watch/demo?media.rate=1400000"
_SAVED = ROOT / "downloads" / "demo"
#: Best rendition of the demo page.
_ORIGINAL = "/media/1080.mp4"
_LANGUAGE = "en"
#: Where ``--browser`` leaves what the console shows at the end.
SCREENSHOT = ROOT / "dist" / "demo-console.png"


class DemoError(Exception):
    """A step of the demo failed."""


@dataclass(frozen=True)
class DemoResult:
    """The values of the last line."""

    job: str
    size: int
    sha256: str


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="URL to download instead of the local site's demo page")
    parser.add_argument("--s3", action="store_true", help="store the video in the bucket of an S3 server")
    parser.add_argument("--browser", action="store_true", help="download through the web console in Chromium")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="reelhaul-demo-"))
    try:
        result = _run(arguments.url, folder, on_s3=arguments.s3, in_browser=arguments.browser)
    except (DemoError, SuiteError, subprocess.SubprocessError, OSError) as error:
        print(f"demo FAILED: {error}\nsuite log: {folder}/data.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - begin
    print(f"demo ok job={result.job} bytes={result.size} sha256={result.sha256} seconds={seconds:.1f}")
    return 0


def _run(url: str | None, folder: Path, *, on_s3: bool, in_browser: bool) -> DemoResult:
    """Download *url* or the demo page; all processes have ended at the return."""
    settings = {"auth": "keys"} | _settings_from_environment()
    with ExitStack() as stack:
        original = None
        if url is None:
            url = stack.enter_context(_running_site()) + _PAGE
            settings["fetcher_allow_networks"] = _with_site_network(settings)
            original = media.ensure_media()
        s3 = stack.enter_context(running_s3_server(folder / "s3")) if on_s3 else None
        suite = stack.enter_context(running_suite(folder / "data", s3=s3, **settings))
        # The key that the suite has created; the command line finds it by itself.
        if (key_file := suite.data_dir / "run" / "api-key").exists():
            suite.http.headers["Authorization"] = f"Bearer {key_file.read_text().strip()}"
        print(f"suite ready in {suite.ready_seconds:.2f} s at {suite.address('gateway')}", flush=True)
        options = ["--format", "mp4", "--subtitles", _LANGUAGE] if original else []
        if in_browser:
            output = folder / "saved"
            _download_in_browser(suite, url, output, with_subtitles=original is not None)
            saved = list(output.iterdir())
        else:
            saved = _download(suite, url, ["--quality", "1080p", *options])
        result = _verify(suite, saved, original)
        if s3 is not None:
            _verify_bucket(s3, result)
        return result


@contextmanager
def _running_site() -> Iterator[str]:
    """Run the local media site as a process; yield its origin."""
    if not media.is_cached():
        print("creating the local site's media (only the first time)", flush=True)
    command = [sys.executable, "-m", "tests.sites", "--host", "127.0.0.2", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, _, origin = process.stdout.readline().strip().partition(" ")
            if word != "site":
                raise DemoError("the local site did not start")
            print(f"local site at {origin}", flush=True)
            yield origin
        finally:
            process.terminate()


def _download(suite: Suite, url: str, options: list[str]) -> list[Path]:
    """Download with the command line, which shows the progress; return the saved files."""
    command = ["download", url, "--server", suite.address("gateway"), "--output", str(_SAVED), *options]
    print(f"$ reelhaul {' '.join(command)}", flush=True)
    environment = os.environ | {"REELHAUL_DATA_DIR": str(suite.data_dir)}
    environment.pop("REELHAUL_API_KEY", None)
    arguments = [sys.executable, "-m", "reelhaul.cli", *command]
    process = subprocess.run(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if process.returncode != 0:
        raise DemoError(f"reelhaul download ended with exit code {process.returncode}")
    return [Path(line) for line in process.stdout.splitlines()]


def _download_in_browser(suite: Suite, url: str, output: Path, *, with_subtitles: bool) -> None:
    """Download with the web console in a browser without a window."""
    # Playwright is a development tool, and the other ways of the demo do without.
    from tests import debian_packages
    from tests.console.demo import download_in_browser

    authorization = suite.http.headers.get("Authorization", "")
    try:
        download_in_browser(
            suite.address("gateway"),
            authorization.removeprefix("Bearer "),
            url,
            output,
            SCREENSHOT,
            with_subtitles=with_subtitles,
        )
    except debian_packages.Missing as error:
        raise DemoError(f"there is no Chromium: {error}") from error
    print(f"screenshot of the console: {SCREENSHOT}", flush=True)


def _verify(suite: Suite, paths: list[Path], original: media.Media | None) -> DemoResult:
    """Compare every saved file with the API's response, and with the site's media."""
    downloads = suite.http.get("/api/v1/jobs").raise_for_status().json()["jobs"]
    if len(downloads) != 1 or downloads[0]["status"] != "SUCCEEDED":
        raise DemoError(f"one download should have succeeded: {downloads}")
    download, saved = downloads[0], {tools.file_digest(path): path for path in paths}
    for file in download["files"]:
        path = saved.get(file["sha256"])
        if path is None or path.stat().st_size != file["size_bytes"]:
            raise DemoError(f"no saved file has size and digest of {file['name']}: {saved}")
    main_file = download["files"][0]
    video = saved[main_file["sha256"]]
    if original is not None:
        _check_against_site(original, video, paths)
    _print_streams(video)
    return DemoResult(f"jobs/{download['job_id']}", video.stat().st_size, main_file["sha256"])


def _verify_bucket(s3: S3Server, result: DemoResult) -> None:
    """Check that the bucket has the video, and show its object."""
    client = s3.client()
    for key in s3.list_keys():
        content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        if hashlib.sha256(content).hexdigest() == result.sha256:
            print(f"verified s3://{BUCKET}/{key} at {s3.endpoint_url}: {len(content)} bytes", flush=True)
            return
    raise DemoError(f"no object of the bucket has the video's digest: {s3.list_keys()}")


def _check_against_site(original: media.Media, video: Path, paths: list[Path]) -> None:
    """Check that the video has the site's bytes and a subtitle file the site's text."""
    if tools.file_digest(video) != original.digests[_ORIGINAL]:
        raise DemoError(f"{video.name} differs from the site's {_ORIGINAL}")
    if tools.probe(video) != tools.probe(original.file(_ORIGINAL)):
        raise DemoError(f"ffprobe reports other properties for {video.name} than for the site's {_ORIGINAL}")
    texts = [path.read_text(errors="replace") for path in paths if path != video]
    if not any(all(cue[2][_LANGUAGE] in text for cue in media.CUES) for text in texts):
        raise DemoError("no saved file has the site's subtitles")


def _print_streams(video: Path) -> None:
    probe = tools.probe(video)
    if not probe.codecs.keys() & {"video", "audio"}:
        raise DemoError(f"{video.name} has neither video nor audio")
    height = f"{probe.height}p " if probe.height else ""
    streams = " and ".join(probe.codecs.values())
    print(f"verified {video}: {height}{streams}, {probe.duration:.1f} s", flush=True)


def _settings_from_environment() -> dict[str, str]:
    """Return REELHAUL_* of the environment, for a proxy or CA, without the data folder and the key."""
    prefix = "REELHAUL_"
    settings = {k.removeprefix(prefix).lower(): v for k, v in os.environ.items() if k.startswith(prefix)}
    for name in ("data_dir", "api_key"):
        settings.pop(name, None)
    settings.setdefault("fetcher_allow_networks", "")
    return settings


def _with_site_network(settings: dict[str, str]) -> str:
    return ",".join(filter(None, [settings["fetcher_allow_networks"], SITE_NETWORK]))


if __name__ == "__main__":
    sys.exit(main())
