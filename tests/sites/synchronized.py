"""Video and audio that show whether they are in step: flashes and beeps at the same, irregular moments."""

from __future__ import annotations

import array
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
from tests.sites import tools

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "20", "-sc_threshold", "0")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "20", "-b:v", "200k")
AAC = ("-c:a", "aac", "-b:a", "48k")
OPUS = ("-c:a", "libopus", "-b:a", "48k")
# For a fifth of a second at 0, 0.25, 1, 2.25, 4, 6.25 and so on: no shift fits more than one of them.
_IS_ON = "lt(t-pow(floor(sqrt(4*t)),2)/4,0.2)"
_RATE = 8000


def source(kind: str, seconds: float, start: float = 0.0) -> list[str]:
    """Return ffmpeg's input of *kind* (video, audio) from second *start* of the moments to *seconds*."""
    if kind == "video":
        graph = f"color=black:s=160x90:r=20:d={seconds},drawbox=c=white:t=fill:enable='{_IS_ON}'"
    else:
        graph = f"aevalsrc='if({_IS_ON},0.8*sin(2*PI*1000*t),0)':d={seconds}:s=44100"
    return ["-f", "lavfi", *(["-ss", str(start)] if start else []), "-i", graph]


def create(
    kind: str, path: Path, codec: tuple[str, ...], *, seconds: float, start: float = 0.0, offset: float = 0.0
) -> Path:
    """Encode the moments from *start* to *seconds* into *path*, with timestamps *offset* later."""
    fragmented = ("-movflags", "+frag_keyframe+delay_moov+dash") if path.suffix == ".mp4" else ()
    times = ("-output_ts_offset", f"{start + offset}")
    tools.run_ffmpeg("-y", *source(kind, seconds, start), *codec, *times, *fragmented, str(path))
    return path


def flashes(path: Path) -> list[float]:
    """Return the seconds at which the picture becomes white."""
    with av.open(str(path)) as file:
        levels = [(f.time or 0.0, bytes(f.planes[0])[0] > 128) for f in file.decode(video=0)]
    return list(_rises(levels))


def beeps(path: Path) -> list[float]:
    """Return the seconds at which the tone begins."""
    levels = []
    resampler = av.AudioResampler("s16", "mono", _RATE)
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            begin = frame.time or 0.0
            for resampled in resampler.resample(frame):
                samples = array.array("h", bytes(resampled.planes[0])[: 2 * resampled.samples])
                levels.append((begin, max(map(abs, samples), default=0) > 3000))
    return list(_rises(levels))


def offsets(path: Path, after: float = 0.0) -> list[float]:
    """Return how many seconds after each flash the nearest beep is; of the flashes *after* that second."""
    sounds = beeps(path)
    return [
        min((sound - flash for sound in sounds), key=abs, default=math.inf)
        for flash in flashes(path)
        if flash > after
    ]


def _rises(levels: list[tuple[float, bool]]) -> Iterator[float]:
    for (_, before), (time, now) in pairwise(levels):
        if now and not before:
            yield time
