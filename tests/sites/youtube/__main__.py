"""``python -m tests.sites.youtube --host 127.0.0.1 --port 0 --ca-out FILE``: the stand-in as a process."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path

from tests.sites.youtube.library import Library
from tests.sites.youtube.site import YouTube


def main() -> None:
    """Serve until interrupted; says where on the first line of output."""
    parser = argparse.ArgumentParser(prog="python -m tests.sites.youtube", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to serve on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ca-out", type=Path, required=True, help="where to put the certificate to trust")
    parser.add_argument("--media", type=Path, help="folder to keep the media in (the user's cache)")
    asked = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(asked.host, asked.port, asked.ca_out, asked.media))


async def _serve(host: str, port: int, ca_file: Path, folder: Path | None) -> None:
    youtube = YouTube(Library(folder))
    youtube.write_ca(ca_file)
    async with await youtube.start(host, port) as server:
        print(f"youtube {youtube.proxy_url}", flush=True)
        await server.serve_forever()


main()
