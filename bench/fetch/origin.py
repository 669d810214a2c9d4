"""``python -m bench.fetch.origin FOLDER``: a file server that costs little, with ranges and a throttle.

``/<file>?rate=<bytes a second on each connection>``; ``/small/<number>.mp4`` is the file ``small.mp4``
with a box at its end that makes each number another file.
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

_TICK = 0.05


class Origin:
    """Serves what is in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._small = (folder / "small.mp4").read_bytes()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
        writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        address = urlsplit(target)
        rate = float(dict(parse_qsl(address.query)).get("rate", 0))
        if address.path.startswith("/small/"):
            content = self._small + box(int(re.sub(r"\D", "", address.path)))
            self._begin(writer, fields, len(content), f'"{address.path}"')
            writer.write(content if method == "GET" else b"")
            await writer.drain()
        else:
            with (self._folder / Path(address.path).name).open("rb") as file:
                size = (self._folder / file.name).stat().st_size
                tag = f'"{(self._folder / file.name).stat().st_mtime_ns}"'
                start, stop = self._begin(writer, fields, size, tag)
                if method == "GET":
                    await _send(writer, file, start, stop, rate)
        return fields.get("connection", "").lower() != "close"

    def _begin(
        self, writer: asyncio.StreamWriter, fields: dict[str, str], size: int, tag: str
    ) -> tuple[int, int]:
        """Write the head; which bytes are to follow."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", fields.get("range", ""))
        if asked and fields.get("if-range", tag) == tag:
            start, stop = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
            status, more = "206 Partial Content", f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n"
        else:
            start, stop, status, more = 0, size, "200 OK", ""
        named = f"ETag: {tag}\r\nAccept-Ranges: bytes\r\nContent-Type: video/mp4\r\n"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\n{named}{more}\r\n".encode("latin-1")
        )
        return start, stop


async def _send(writer: asyncio.StreamWriter, file: BinaryIO, start: int, stop: int, rate: float) -> None:
    await writer.drain()
    if not rate:
        loop = asyncio.get_running_loop()
        await loop.sendfile(writer.transport, file, start, stop - start)
        return
    file.seek(start)
    began, sent = asyncio.get_running_loop().time(), 0
    while start + sent < stop:
        piece = file.read(min(int(rate * _TICK), stop - start - sent))
        writer.write(piece)
        await writer.drain()
        sent += len(piece)
        # By the clock and not by the piece: the ticks of a busy machine are late.
        await asyncio.sleep(began + sent / rate - asyncio.get_running_loop().time())


def box(number: int) -> bytes:
    """A free box of an MP4 file: ignored by players, different for each *number*."""
    return struct.pack(">I4sQ", 16, b"free", number)


async def main() -> None:
    """Serve until killed; says where on the first line of output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.2")
    asked = parser.parse_args()
    server = await asyncio.start_server(Origin(asked.folder).serve, asked.host, 0)
    print(f"origin http://{asked.host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
