"""Videos for the chaos test: a different short file for each job, so that its digest identifies it."""

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

_VIDEO = "testsrc2=s=320x180:r=15:d=2"
# Bytes; a part of an upload to S3 has 8 MiB.
_LARGE_SIZES = (17_000_000, 30_000_000)
_AUDIO = "sine=frequency=440:sample_rate=44100:d=2"


@dataclass(frozen=True)
class Video:
    """A video file at the site; its URL asks for the faults of its responses."""

    path: str
    url: str
    sha256: str


class VideoSource:
    """Creates videos on demand and serves them at a site."""

    def __init__(self, site: Site, base_file: bytes, large_share: float) -> None:
        self.site = site
        self._base_file, self._large_share = base_file, large_share
        self._count = 0

    def create(self, rng: random.Random, *, duration: float = 0, **faults: int) -> Video:
        """Create a video of 60 KB to 3 MB, or a large one, whose responses have *faults*.

        *duration*: seconds that the download takes; 0 for full speed. See tests/sites/faults.py.
        """
        self._count += 1
        size = rng.randrange(20_000, 3_000_000 if rng.random() < 0.2 else 350_000)
        if self._large_share and rng.random() < self._large_share:
            size = rng.randrange(*_LARGE_SIZES)
        padding = rng.randbytes(size)
        # Players skip a box of type "free": ISO/IEC 14496-12, 8.1.2.
        content = self._base_file + struct.pack(">I4s", 8 + len(padding), b"free") + padding
        path = f"/media/video-{self._count}.mp4"
        self.site.media.file(path).write_bytes(content)
        self.site.media.digests[path] = sha256(content).hexdigest()
        if duration:
            faults["rate"] = round(len(content) / duration)
        query = f"?{urlencode(faults)}" if faults else ""
        return Video(path, self.site.url(path) + query, self.site.media.digests[path])


@contextmanager
def running_video_source(folder: Path, large_share: float = 0) -> Iterator[VideoSource]:
    """Run a site whose videos are kept in *folder*, until the block ends.

    *large_share* of the videos, 0 to 1, have several parts in S3.
    """
    (folder / "media").mkdir(parents=True)
    base_file = folder / "base.mp4"
    inputs = ["-f", "lavfi", "-i", _VIDEO, "-f", "lavfi", "-i", _AUDIO]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-b:a", "64k"]
    tools.run_ffmpeg(*inputs, *codecs, "-movflags", "+faststart", str(base_file))
    with running_site(media=Media(folder, {})) as site:
        yield VideoSource(site, base_file.read_bytes(), large_share)
