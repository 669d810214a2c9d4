"""Other downloaders: curl, yt-dlp's command line, and yt-dlp as a library in one process."""

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

# Prints the files per second, without the first file.
_YT_DLP_LOOP = """
import sys, time, yt_dlp
folder, mode, *urls = sys.argv[1:]
options = {"quiet": True, "noprogress": True, "outtmpl": folder + "/%(id)s-%(autonumber)s.%(ext)s"}
def download(downloader, url):
    if downloader.download([url]):
        raise SystemExit(1)
# The first download loads modules lazily.
shared = yt_dlp.YoutubeDL(options)
download(shared, urls[0])
begin = time.perf_counter()
for url in urls[1:]:
    if mode == "shared":
        download(shared, url)
    else:
        with yt_dlp.YoutubeDL(options) as downloader:
            download(downloader, url)
print((len(urls) - 1) / (time.perf_counter() - begin))
"""


def curl_path() -> str:
    """Return the path of curl. Raises FileNotFoundError."""
    if path := shutil.which("curl"):
        return path
    raise FileNotFoundError("curl is not installed; the benchmark compares with it")


class Rivals:
    """Runs the downloaders, each time in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        tool_folder = folder / "rivals-tools"
        tool_folder.mkdir()
        (tool_folder / "ffmpeg").symlink_to(tools.ffmpeg())
        (tool_folder / "ffprobe").symlink_to(tools.ffprobe())
        self._environment = {**os.environ, "PATH": f"{tool_folder}:{os.environ['PATH']}", "HOME": str(folder)}

    def time_curl(self, url: str) -> float:
        """Download *url* with curl; return the seconds."""
        return self._time([[curl_path(), "-sSf", "-o", "file", url]])

    def time_command_line(self, urls: Sequence[str], *options: str, **environment: str) -> float:
        """Download *urls* with yt-dlp's command line, two processes at a time; return the seconds."""
        command = [sys.executable, "-m", "yt_dlp", "--ignore-config", "-q", "--no-progress", *options]
        commands = [[*command, "-o", "%(id)s-%(epoch)s.%(ext)s", url] for url in urls]
        return self._time(commands, **environment)

    def loop_rate(self, urls: Sequence[str], *, shared: bool) -> float:
        """Download *urls* in one process, with one YoutubeDL or one for each; return the files per second."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            command = [sys.executable, "-c", _YT_DLP_LOOP, folder, "shared" if shared else "each", *urls]
            result = subprocess.run(
                command, env=self._environment, check=True, capture_output=True, text=True
            )
        return float(result.stdout)

    def _time(self, commands: list[list[str]], **environment: str) -> float:
        variables = {**self._environment, **environment}
        waiting, running = list(commands), list[subprocess.Popen[bytes]]()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            begin = time.perf_counter()
            while waiting or running:
                while waiting and len(running) < 2:
                    running.append(subprocess.Popen(waiting.pop(0), env=variables, cwd=folder))
                if running.pop(0).wait():
                    raise RuntimeError(f"{commands[0]} failed")
            return time.perf_counter() - begin
