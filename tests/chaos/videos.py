"""Films: a short one for each job, all different, so that a digest tells whose bytes were stored."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from tests.sites import tools
from tests.sites.media import Media
from tests.sites.site import Site, running_site

_PICTURE = "testsrc2=s=320x180:r=15:d=2"
_TONE = "sine=frequency=440:sample_rate=44100:d=2"


@dataclass(frozen=True)
class Film:
    """A film at the site, and what goes wrong with it there."""

    #: Its path at the site.
    path: str
    url: str
    sha256: str
    size: int


class Films:
    """Makes films as they are asked for, and shows them at a site."""

    def __init__(self, site: Site, reel: bytes) -> None:
        self.site = site
        self._reel = reel
        self._made = 0

    def another(self, rng: random.Random, *, lasting: float = 0, **faults: int) -> Film:
        """A new film of 60 KB to 3 MB whose answers have *faults* (see tests/sites/faults.py).

        *lasting*: the seconds that it takes to fetch, where it is not to come as fast as it can.
        """
        self._made += 1
        padding = rng.randbytes(rng.randrange(20_000, 3_000_000 if rng.random() < 0.2 else 350_000))
        # A box of the kind "free" is what players skip: https://www.iso.org/standard/83102.html
        body = self._reel + struct.pack(">I4s", 8 + len(padding), b"free") + padding
        path = f"/media/film-{self._made}.mp4"
        self.site.media.file(path).write_bytes(body)
        self.site.media.digests[path] = sha256(body).hexdigest()
        if lasting:
            faults["rate"] = round(len(body) / lasting)
        query = f"?{urlencode(faults)}" if faults else ""
        return Film(path, self.site.url(path) + query, self.site.media.digests[path], len(body))


@contextmanager
def showing(folder: Path) -> Iterator[Films]:
    """A site that shows films, kept in *folder* while the block lasts."""
    (folder / "media").mkdir(parents=True)
    reel = folder / "reel.mp4"
    inputs = ["-f", "lavfi", "-i", _PICTURE, "-f", "lavfi", "-i", _TONE]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-b:a", "64k"]
    tools.run_ffmpeg(*inputs, *codecs, "-movflags", "+faststart", str(reel))
    with running_site(media=Media(folder, {})) as site:
        yield Films(site, reel.read_bytes())
