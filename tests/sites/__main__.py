"""``python -m tests.sites --host 127.0.0.2 --port 0``: the site as a process."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path

from tests.sites import media
from tests.sites.site import Site, start


def main() -> None:
    """Serve until interrupted; says where on the first line of output."""
    parser = argparse.ArgumentParser(prog="python -m tests.sites", description=__doc__)
    parser.add_argument("--host", default="127.0.0.2", help="loopback address to serve on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--media", type=Path, help="folder to keep the media in (the user's cache)")
    asked = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(asked.host, asked.port, asked.media))


async def _serve(host: str, port: int, folder: Path | None) -> None:
    site = Site(media.made(folder))
    async with await start(site, host, port) as server:
        print(f"site {site.origin}", flush=True)
        await server.serve_forever()


main()
