"""A stand-in for YouTube, and its clients: yt-dlp's own command line and an HTTP client."""

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

RunYtDlp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def youtube() -> Iterator[YouTube]:
    """A stand-in for each module, because it counts requests and ends some faults after the first."""
    with running_youtube() as youtube:
        yield youtube


@pytest.fixture(scope="module")
def run_yt_dlp(youtube: YouTube, tmp_path_factory: pytest.TempPathFactory) -> RunYtDlp:
    """Run the yt-dlp command line with the stand-in as its proxy."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "ffmpeg").symlink_to(tools.ffmpeg())
    (folder / "ffprobe").symlink_to(tools.ffprobe())
    path = f"{folder}:{os.environ['PATH']}"
    # SSL_CERT_FILE is for ffmpeg, whose requests go through the proxy too.
    environment = {"PATH": path, "HOME": str(folder), "SSL_CERT_FILE": str(youtube.ca_file)}

    def run(*arguments: str, into: Path | None = None) -> subprocess.CompletedProcess[str]:
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

    return run


@pytest.fixture
def http_client(youtube: YouTube) -> Iterator[httpx.Client]:
    """An HTTP client that reaches the stand-in as YouTube."""
    context = ssl.create_default_context(cafile=youtube.ca_file)
    with httpx.Client(proxy=youtube.proxy_url, verify=context, trust_env=False) as client:
        yield client
