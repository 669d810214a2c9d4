"""``make demo-picture``: run the demo in a terminal of 100 columns and in the console, and picture both.

``demo.svg`` is what the terminal shows; it loads nothing: its font is the reader's own monospaced one.
``console.png`` is the upper part of the screenshot of the console.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import imageio_ffmpeg
from rich.console import Console
from rich.text import Text
from tests import demo

_COLUMNS, _ROWS = 100, 40
# Of the picture of the console: pixels, and height by width.
_WIDTH, _SHAPE = 960, 1.05
_SEQUENCE = r"\x1b\[(?P<arguments>[0-9;?]*)(?P<command>[A-Za-z])"
_TOKEN = re.compile(rf"{_SEQUENCE}|(?P<character>[^\x1b])|\x1b.", re.DOTALL)
_FONT_FACE = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


class Screen:
    """The lines of a terminal, as the sequences that rich's progress bars use change them."""

    def __init__(self) -> None:
        self._lines: list[list[str]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def feed(self, output: str) -> None:
        """Apply *output*."""
        for token in _TOKEN.finditer(output):
            if token["command"]:
                self._apply(token["command"], token["arguments"])
            elif token["character"] == "\n":
                self._row += 1
                if self._row == len(self._lines):
                    self._lines.append([])
            elif token["character"] == "\r":
                self._column = 0
            elif token["character"]:
                self._write(token["character"])

    def text(self) -> str:
        """Return the lines with their colours, without empty ones at the end."""
        return "\n".join("".join(line) for line in self._lines).rstrip()

    def _apply(self, command: str, arguments: str) -> None:
        if command == "m":
            self._style = "" if arguments in ("", "0") else f"{self._style}\x1b[{arguments}m"
        elif command == "A":
            self._row = max(0, self._row - int(arguments or 1))
        elif command == "K":
            del self._lines[self._row][0 if arguments == "2" else self._column :]

    def _write(self, character: str) -> None:
        line = self._lines[self._row]
        line += [" "] * (self._column + 1 - len(line))
        line[self._column] = f"{self._style}{character}\x1b[0m" if self._style else character
        self._column += 1


def run_in_terminal(command: list[str]) -> str:
    """Run *command* in a terminal; return all that it wrote. Raises CalledProcessError."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        output = bytearray()
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:
                # The terminal's last program has ended.
                break
            if not chunk:
                break
            output += chunk
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, bytes(output))
    return output.decode(errors="replace")


def to_svg(output: str, title: str) -> str:
    """Return what a terminal shows after *output*, as a picture that loads nothing."""
    screen = Screen()
    screen.feed(output)
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen.text()))
    return _FONT_FACE.sub("", console.export_svg(title=title, unique_id="demo"))


def crop_screenshot(screenshot: Path, target: Path) -> None:
    """Write the upper part of *screenshot*, as wide as a page of text, as *target*."""
    shape = f"crop=iw:min(ih\\,iw*{_SHAPE}):0:0,scale={_WIDTH}:-1"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", screenshot, "-vf", shape, target]
    subprocess.run(command, check=True)


def main() -> None:
    """Write the pictures into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    output = run_in_terminal([sys.executable, "-m", "tests.demo"]).replace(f"{demo.ROOT}/", "")
    (folder / "demo.svg").write_text(to_svg(f"$ make demo\r\n{output}", "Reelhaul"))
    subprocess.run([sys.executable, "-m", "tests.demo", "--browser"], check=True)
    crop_screenshot(demo.SCREENSHOT, folder / "console.png")
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    main()
