"""Who else fetches files: curl, yt-dlp's command line, and yt-dlp in a loop of one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.sites import tools

_LOOP = """
import sys, time, yt_dlp
folder, how, *urls = sys.argv[1:]
options = {"quiet": True, "noprogress": True, "outtmpl": folder + "/%(id)s-%(autonumber)s.%(ext)s"}
def fetch(downloader, url):
    if downloader.download([url]):
        raise SystemExit(1)
# What is loaded late is loaded by the first.
shared = yt_dlp.YoutubeDL(options)
fetch(shared, urls[0])
began = time.perf_counter()
for url in urls[1:]:
    if how == "shared":
        fetch(shared, url)
    else:
        with yt_dlp.YoutubeDL(options) as downloader:
            fetch(downloader, url)
print((len(urls) - 1) / (time.perf_counter() - began))
"""


def curl() -> str:
    """Its path. Raises FileNotFoundError."""
    if found := shutil.which("curl"):
        return found
    raise FileNotFoundError("curl is not installed, and is one side of this measure")


class Rivals:
    """Fetch, each time into a folder of its own, which is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        tool_folder = folder / "rivals-tools"
        tool_folder.mkdir()
        (tool_folder / "ffmpeg").symlink_to(tools.ffmpeg())
        (tool_folder / "ffprobe").symlink_to(tools.ffprobe())
        self._environment = {**os.environ, "PATH": f"{tool_folder}:{os.environ['PATH']}", "HOME": str(folder)}

    def with_curl(self, url: str) -> float:
        """Seconds that curl takes."""
        return self._seconds([[curl(), "-sSf", "-o", "file", url]])

    def with_command_line(self, urls: Sequence[str], *more: str, **environment: str) -> float:
        """Seconds that yt-dlp's command line takes for *urls*, a process for each, two at a time."""
        command = [sys.executable, "-m", "yt_dlp", "--ignore-config", "-q", "--no-progress", *more]
        return self._seconds(
            [[*command, "-o", "%(id)s-%(epoch)s.%(ext)s", url] for url in urls], **environment
        )

    def in_a_loop(self, urls: Sequence[str], *, shared: bool) -> float:
        """Files a second of one process, with one YoutubeDL for all of them or one for each."""
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            command = [sys.executable, "-c", _LOOP, place, "shared" if shared else "each", *urls]
            done = subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True)
        return float(done.stdout)

    def _seconds(self, commands: list[list[str]], **environment: str) -> float:
        told = {**self._environment, **environment}
        waiting, running = list(commands), list[subprocess.Popen[bytes]]()
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            began = time.perf_counter()
            while waiting or running:
                while waiting and len(running) < 2:
                    running.append(subprocess.Popen(waiting.pop(0), env=told, cwd=place))
                if running.pop(0).wait():
                    raise RuntimeError(f"{commands[0]} failed")
            return time.perf_counter() - began
