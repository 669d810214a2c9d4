"""``python -m tests.sites.youtube --host 127.0.0.1 --port 0 --ca-out FILE``: run the stand-in."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path

from tests.sites.youtube.library import Library
from tests.sites.youtube.site import YouTube


def main() -> None:
    """Serve until interrupted. The first line of output is ``youtube <proxy URL>``."""
    parser = argparse.ArgumentParser(prog="python -m tests.sites.youtube", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to serve on")
    parser.add_argument("--port", type=int, default=0, help="port to serve on (0: any free one)")
    parser.add_argument("--ca-out", type=Path, required=True, help="file to write the CA certificate to")
    parser.add_argument("--media", type=Path, help="folder for the media files (default: the user's cache)")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.host, arguments.port, arguments.ca_out, arguments.media))


async def _serve(host: str, port: int, ca_file: Path, media_folder: Path | None) -> None:
    youtube = YouTube(Library(media_folder))
    youtube.write_ca(ca_file)
    async with await youtube.start(host, port) as server:
        print(f"youtube {youtube.proxy_url}", flush=True)
        await server.serve_forever()


main()
