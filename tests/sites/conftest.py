"""A stand-in for YouTube, and who visits it: yt-dlp's own command line, and a browser."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube, running_youtube

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def youtube() -> Iterator[YouTube]:
    """A stand-in of this module's own: it counts requests, and some faults happen only once."""
    with running_youtube() as youtube:
        yield youtube


@pytest.fixture(scope="module")
def run(youtube: YouTube, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The yt-dlp command line, with the stand-in for its proxy and nothing else of ours."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "ffmpeg").symlink_to(tools.ffmpeg())
    (folder / "ffprobe").symlink_to(tools.ffprobe())
    path = f"{folder}:{os.environ['PATH']}"
    # All that leaves goes through the proxy, ffmpeg's own requests too.
    environment = {"PATH": path, "HOME": str(folder), "SSL_CERT_FILE": str(youtube.ca_file)}

    def yt_dlp(*arguments: str, into: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "yt_dlp", "--ignore-config", "--no-cache-dir", "--no-progress"]
        command += ["--compat-options", "no-certifi", "--proxy", youtube.proxy_url, "-o", "%(id)s.%(ext)s"]
        return subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            env=environment,
            cwd=into or folder,
            check=False,
        )

    return yt_dlp


@pytest.fixture
def browser(youtube: YouTube) -> Iterator[httpx.Client]:
    """A client that takes the stand-in for YouTube."""
    trust = ssl.create_default_context(cafile=youtube.ca_file)
    with httpx.Client(proxy=youtube.proxy_url, verify=trust, trust_env=False) as client:
        yield client
