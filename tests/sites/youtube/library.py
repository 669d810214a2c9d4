"""The files behind the streams: each is made when it is first asked for, then kept between runs."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from tests.sites import media, tools
from tests.sites.youtube.streams import Programme, Stream, ffmpeg_options

#: Segments of a broadcast are as many seconds long.
SEGMENT_SECONDS = 1
#: A broadcast shows these again and again.
SEGMENTS = 20


class Library:
    """Media files by what is in them. Safe to ask from many threads."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or media.user_cache() / "youtube"
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._digests: dict[Path, str] = {}

    def file(self, stream: Stream, programme: Programme, language: str = "en") -> Path:
        """The file of *stream*. Raises CalledProcessError where ffmpeg cannot make it."""
        options = ffmpeg_options(stream, programme, language)
        spoken = f"-{language}" if stream.sound else ""
        name = f"{programme.name}-{stream.itag}{spoken}"
        return self._kept(name, stream.container, options, lambda path: tools.run_ffmpeg(*options, str(path)))

    def digest(self, path: Path) -> str:
        """SHA-256 of a file of the library, in hex."""
        if path not in self._digests:
            self._digests[path] = tools.file_digest(path)
        return self._digests[path]

    def picture(self) -> Path:
        """A thumbnail, as JPEG."""
        source = ["-f", "lavfi", "-i", "testsrc2=s=1280x720:r=1:d=1"]
        options = [*source, "-frames:v", "1", "-f", "image2", "-update", "1"]
        return self._kept("picture", "jpg", options, lambda path: tools.run_ffmpeg(*options, str(path)))

    def segment(self, number: int) -> Path:
        """Second *number* of a broadcast, as MPEG-TS whose clock runs on from its start."""
        length = SEGMENTS * SEGMENT_SECONDS
        sources = f"-f lavfi -i testsrc2=s=640x360:r=10:d={length} -f lavfi -i sine=frequency=440:d={length}"
        codecs = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 10 -sc_threshold 0 -c:a aac -b:a 64k"
        muxer = f"-f hls -hls_time {SEGMENT_SECONDS} -hls_list_size 0 -hls_segment_filename"
        options = f"{sources} {codecs} {muxer}".split()

        def make(path: Path) -> None:
            path.mkdir()
            tools.run_ffmpeg(*options, str(path / "%d.ts"), str(path / "all.m3u8"))

        folder = self._kept("broadcast", "segments", options, make)
        return folder / f"{number % SEGMENTS}.ts"

    def _kept(self, name: str, suffix: str, recipe: list[str], make: Callable[[Path], None]) -> Path:
        """The file *name*, from *recipe* and no other; made by *make* unless it is there."""
        encoder = tools.ffmpeg().stat().st_size
        key = sha256(f"{encoder} {' '.join(recipe)}".encode()).hexdigest()[:12]
        path = self._folder / f"{name}-{key}.{suffix}"
        with self._locks[path.name]:
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix="making-", dir=self._folder) as making:
                    fresh = Path(making) / path.name
                    make(fresh)
                    _moved(fresh, path)
        return path


def _moved(fresh: Path, path: Path) -> None:
    try:
        os.rename(fresh, path)
    except OSError:
        # Another process was quicker, and a folder is not replaced: what it made is the same.
        if not path.exists():
            raise
