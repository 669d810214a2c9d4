"""Origin: a file server that costs little CPU, with ranges and a throttle, and its media files.

``python -m bench.fetch.origin FOLDER`` serves the files in FOLDER. ``/<file>?rate=<bytes per second on each
connection>``; ``/small/<number>.mp4`` is the file ``small.mp4`` with a box at its end that makes it another
file for each number.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qsl, urlsplit

from tests.sites import media, tools

_TICK_SECONDS = 0.05


class Origin:
    """Serves the files in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._small = (folder / "small.mp4").read_bytes()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._respond(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
        writer.close()

    async def _respond(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """Send the response to the request *head*; return whether the connection is kept."""
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        url = urlsplit(target)
        rate = float(dict(parse_qsl(url.query)).get("rate", 0))
        if url.path.startswith("/small/"):
            content = self._small + free_box(int(re.sub(r"\D", "", url.path)))
            _write_head(writer, fields, len(content), f'"{url.path}"')
            writer.write(content if method == "GET" else b"")
            await writer.drain()
        else:
            path = self._folder / Path(url.path).name
            with path.open("rb") as file:
                status = path.stat()
                start, stop = _write_head(writer, fields, status.st_size, f'"{status.st_mtime_ns}"')
                if method == "GET":
                    await _send_file(writer, file, start, stop, rate)
        return fields.get("connection", "").lower() != "close"


def _write_head(writer: asyncio.StreamWriter, fields: dict[str, str], size: int, tag: str) -> tuple[int, int]:
    """Write the head of the response; return the first byte of its body and the one after its last."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", fields.get("range", ""))
    if match and fields.get("if-range", tag) == tag:
        start, stop = int(match[1]), min(int(match[2] or size - 1) + 1, size)
        status, content_range = "206 Partial Content", f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n"
    else:
        start, stop, status, content_range = 0, size, "200 OK", ""
    headers = f"ETag: {tag}\r\nAccept-Ranges: bytes\r\nContent-Type: video/mp4\r\n{content_range}"
    head = f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\n{headers}\r\n"
    writer.write(head.encode("latin-1"))
    return start, stop


async def _send_file(
    writer: asyncio.StreamWriter, file: BinaryIO, start: int, stop: int, rate: float
) -> None:
    await writer.drain()
    loop = asyncio.get_running_loop()
    if not rate:
        await loop.sendfile(writer.transport, file, start, stop - start)
        return
    file.seek(start)
    begin, sent = loop.time(), 0
    while start + sent < stop:
        piece = file.read(min(int(rate * _TICK_SECONDS), stop - start - sent))
        writer.write(piece)
        await writer.drain()
        sent += len(piece)
        # From the start and not from the last piece, because a busy machine wakes up late.
        await asyncio.sleep(begin + sent / rate - loop.time())


def free_box(number: int) -> bytes:
    """Return an MP4 box that players ignore and that is different for each *number*."""
    return struct.pack(">I4sQ", 16, b"free", number)


def create_large_file(folder: Path, name: str, size: int) -> Path:
    """Create an MP4 of about *size* bytes that repeats the site's best rendition."""
    source = media.ensure_media().file("/media/1080.mp4")
    loops = max(1, round(size / source.stat().st_size))
    path = folder / name
    repeated = ["-stream_loop", str(loops - 1), "-i", str(source)]
    tools.run_ffmpeg(*repeated, "-c", "copy", "-movflags", "+faststart", str(path))
    with path.open("ab") as file:
        file.write(free_box(0))
    return path


def create_small_file(folder: Path) -> Path:
    """Create ``small.mp4`` of about 100 KB."""
    path = folder / "small.mp4"
    source = media.ensure_media().file("/media/360.mp4")
    codecs = ["-c:v", "libx264", "-preset", "superfast", "-b:v", "340k", "-c:a", "copy"]
    tools.run_ffmpeg("-i", str(source), "-t", "2", *codecs, "-movflags", "+faststart", str(path))
    return path


def change_file(path: Path, number: int) -> None:
    """Change the bytes of *path* but not its size, so that no downloader has seen its content."""
    with path.open("r+b") as file:
        file.seek(-16, 2)
        file.write(free_box(number))


async def main() -> None:
    """Serve until killed. The first line of output is ``origin <URL>``."""
    parser = argparse.ArgumentParser(prog="python -m bench.fetch.origin")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.2")
    arguments = parser.parse_args()
    server = await asyncio.start_server(Origin(arguments.folder).serve, arguments.host, 0)
    print(f"origin http://{arguments.host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
