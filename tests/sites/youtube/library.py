"""Media files of the streams: each is created at the first request and cached between runs."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from tests.sites import media, tools
from tests.sites.youtube.streams import Content, Stream, ffmpeg_options

#: Length of a broadcast's segments.
SEGMENT_SECONDS = 1
#: Number of segments, which a broadcast repeats.
SEGMENTS = 20


class Library:
    """Media files by their content. Thread-safe."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or media.user_cache() / "youtube"
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._digests: dict[Path, str] = {}

    def file(self, stream: Stream, content: Content, language: str = "en") -> Path:
        """Return the file of *stream*. Raises CalledProcessError if ffmpeg cannot create it."""
        options = ffmpeg_options(stream, content, language)
        suffix = f"-{language}" if stream.audio_bitrate else ""
        name = f"{content.name}-{stream.itag}{suffix}"
        return self._get_or_create(
            name, stream.container, options, lambda path: tools.run_ffmpeg(*options, str(path))
        )

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file of the library in hex."""
        if path not in self._digests:
            self._digests[path] = tools.file_digest(path)
        return self._digests[path]

    def thumbnail(self) -> Path:
        """Return the thumbnail, a JPEG."""
        source = ["-f", "lavfi", "-i", "testsrc2=s=1280x720:r=1:d=1"]
        options = [*source, "-frames:v", "1", "-f", "image2", "-update", "1"]
        return self._get_or_create(
            "picture", "jpg", options, lambda path: tools.run_ffmpeg(*options, str(path))
        )

    def segment(self, number: int) -> Path:
        """Return segment *number* of a broadcast, MPEG-TS with continuous timestamps."""
        length = SEGMENTS * SEGMENT_SECONDS
        sources = f"-f lavfi -i testsrc2=s=640x360:r=10:d={length} -f lavfi -i sine=frequency=440:d={length}"
        codecs = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 10 -sc_threshold 0 -c:a aac -b:a 64k"
        muxer = f"-f hls -hls_time {SEGMENT_SECONDS} -hls_list_size 0 -hls_segment_filename"
        options = f"{sources} {codecs} {muxer}".split()

        def create(path: Path) -> None:
            path.mkdir()
            tools.run_ffmpeg(*options, str(path / "%d.ts"), str(path / "all.m3u8"))

        folder = self._get_or_create("broadcast", "segments", options, create)
        return folder / f"{number % SEGMENTS}.ts"

    def _get_or_create(
        self, name: str, suffix: str, recipe: list[str], create: Callable[[Path], None]
    ) -> Path:
        """Return the file or folder *name* of *recipe* (ffmpeg options); call *create* unless it exists."""
        encoder = tools.ffmpeg().stat().st_size
        key = sha256(f"{encoder} {' '.join(recipe)}".encode()).hexdigest()[:12]
        path = self._folder / f"{name}-{key}.{suffix}"
        with self._locks[path.name]:
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix="making-", dir=self._folder) as temporary:
                    new = Path(temporary) / path.name
                    create(new)
                    _move_into_place(new, path)
        return path


def _move_into_place(new: Path, path: Path) -> None:
    try:
        os.rename(new, path)
    except OSError:
        # Another process created the same folder first, and rename does not replace a folder.
        if not path.exists():
            raise
