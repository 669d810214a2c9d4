"""What libav sets up when it is first used, set up once for all tasters: half of a small file's decoding."""

from __future__ import annotations

import os
from fractions import Fraction

import av

from reelhaul_fetcher.media.inspect import MediaFile

# Each makes its tables when it is first opened.
_USUAL = ("h264", "hevc", "vp9", "libdav1d", "aac", "opus", "mp3float")


def prepare() -> None:
    """Try out a file of one frame, and open the usual decoders."""
    for name in _USUAL:
        context = av.CodecContext.create(name, "r")
        # No threads: the process is to be forked.
        context.thread_count = 1
        context.open()
    descriptor = os.memfd_create("black")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            _shoot(file)
        os.lseek(descriptor, 0, os.SEEK_SET)
        film = MediaFile(descriptor)
        film.decode_check()
        film.close()
    finally:
        os.close(descriptor)


def _shoot(file: object) -> None:
    """A tenth of a second of black, into *file*."""
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = stream.codec_context.width = stream.codec_context.height = 16
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame(16, 16, "yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
