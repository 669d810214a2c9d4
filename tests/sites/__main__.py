"""``python -m tests.sites --host 127.0.0.2 --port 0``: run the site as a process."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path

from tests.sites import media
from tests.sites.site import Site, start_site


def main() -> None:
    """Serve until interrupted. The first line of output is ``site <origin>``."""
    parser = argparse.ArgumentParser(prog="python -m tests.sites", description=__doc__)
    parser.add_argument("--host", default="127.0.0.2", help="loopback address to serve on")
    parser.add_argument("--port", type=int, default=0, help="port to serve on (0: any free one)")
    parser.add_argument("--media", type=Path, help="folder for the media files (default: the user's cache)")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.host, arguments.port, arguments.media))


async def _serve(host: str, port: int, media_folder: Path | None) -> None:
    site = Site(media.ensure_media(media_folder))
    async with await start_site(site, host, port) as server:
        print(f"site {site.origin}", flush=True)
        await server.serve_forever()


main()
