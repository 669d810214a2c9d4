"""Broadcasts over HLS, faster than real, whose video and audio have playlists of their own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.sites import synchronized, tools
from tests.sites.http import Request, Response, serve_connection, serve_in_thread

#: How long the media lasts, and how much of it is on air when a broadcast is first asked for.
SECONDS, ON_AIR = 60.0, 14.0
#: How much faster than a clock the broadcast plays.
SPEED = 3.0
#: Timestamps begin here.
OFFSET = 10.0

_WINDOW_SECONDS = 12.0
_MASTER = """#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="en",LANGUAGE="en",DEFAULT=YES,AUTOSELECT=YES,URI="audio.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=160x90,CODECS="avc1.42c01e,mp4a.40.2",AUDIO="a"
video.m3u8
"""


@dataclass(frozen=True)
class Stream:
    """How one stream is broadcast. Times are seconds of the media."""

    segment_seconds: int = 2
    #: How much later than the other stream each segment is published.
    lag: float = 0.0
    #: When the stream falls silent, and when its end is marked; 0: never.
    silent_from: float = 0.0
    ends_at: float = 0.0
    #: Number of its first segment.
    first_number: int = 0
    has_dates: bool = False
    #: Numbers of segments that the server does not have.
    missing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Broadcast:
    """Video and audio of one broadcast, as MPEG-TS or fMP4."""

    video: Stream = Stream()
    audio: Stream = Stream()
    kind: str = "ts"


class BroadcastSite:
    """Serves broadcasts by name. ``origin`` is set when it runs."""

    def __init__(self, folder: Path) -> None:
        self.origin = ""
        self._folder = folder
        self._broadcasts: dict[str, tuple[Broadcast, list[float]]] = {}

    def add(self, broadcast: Broadcast) -> str:
        """Return the URL of *broadcast*, which begins when it is first asked for."""
        name = f"b{len(self._broadcasts)}"
        self._broadcasts[name] = (broadcast, [])
        return f"{self.origin}/{name}/master.m3u8"

    async def respond(self, request: Request) -> Response:
        """Return the response to *request*."""
        _, name, file = request.path.split("/")
        broadcast, begun = self._broadcasts[name]
        if file == "master.m3u8":
            return _playlist(_MASTER)
        kind = file[:5]
        stream = broadcast.video if kind == "video" else broadcast.audio
        stem = f"{broadcast.kind}-{kind}-{stream.segment_seconds}"
        if file.endswith(".m3u8"):
            if not begun:
                begun.append(time.monotonic())
            on_air = ON_AIR + SPEED * (time.monotonic() - begun[0])
            return _playlist(self._media_playlist(broadcast, stream, stem, kind, on_air))
        number = re.search(r"-(\d+)\.", file)
        if number and int(number[1]) - stream.first_number in stream.missing:
            return Response(404)
        index = f"-{int(number[1]) - stream.first_number}" if number else "-init"
        suffix = Path(file).suffix
        body = await asyncio.to_thread((self._folder / f"{stem}{index}{suffix}").read_bytes)
        return Response(200, body, {"Content-Type": "application/octet-stream"})

    def _media_playlist(
        self, broadcast: Broadcast, stream: Stream, stem: str, kind: str, on_air: float
    ) -> str:
        rows = re.findall(r"#EXTINF:([\d.]+),\n(\S+)", (self._folder / f"{stem}.m3u8").read_text())
        published = min(on_air - stream.lag, stream.silent_from or SECONDS, stream.ends_at or SECONDS)
        lines, listed, begin = [], list[int](), 0.0
        for index, (seconds, name) in enumerate(rows):
            end = begin + float(seconds)
            if published - _WINDOW_SECONDS <= begin and end <= published + 0.05:
                listed.append(index)
                if stream.has_dates:
                    date = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=begin)
                    lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{date.isoformat()}")
                number = index + stream.first_number
                lines += [f"#EXTINF:{seconds},", f"{kind}-{number}{Path(name).suffix}"]
            begin = end
        first = (listed or [0])[0] + stream.first_number
        head = [
            "#EXTM3U",
            "#EXT-X-VERSION:7",
            f"#EXT-X-TARGETDURATION:{stream.segment_seconds}",
            f"#EXT-X-MEDIA-SEQUENCE:{first}",
        ]
        if broadcast.kind == "mp4":
            head.append(f'#EXT-X-MAP:URI="{kind}-init.mp4"')
        if (stream.ends_at and on_air - stream.lag >= stream.ends_at) or published >= SECONDS:
            lines.append("#EXT-X-ENDLIST")
        return "\n".join([*head, *lines, ""])


@contextmanager
def running_broadcasts(folder: Path, host: str = "127.0.0.2") -> Iterator[BroadcastSite]:
    """Run a site with its media in *folder* until the block ends."""
    _create(folder)
    site = BroadcastSite(folder)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve_connection(site.respond, reader, writer)

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(handle, host, 0)
        site.origin = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        return server

    with serve_in_thread(start, name="broadcasts"):
        yield site


def _create(folder: Path) -> None:
    """Encode video in segments of 2 s, and audio in segments of 2 s, 1 s and 5 s, as MPEG-TS and fMP4."""
    inputs = [*synchronized.source("video", SECONDS), *synchronized.source("audio", SECONDS)]
    command = list(inputs)
    for kind, suffix in (("ts", "ts"), ("mp4", "m4s")):
        for number, name, codec, seconds in (
            (0, "video", synchronized.H264, 2),
            (1, "audio", synchronized.AAC, 2),
            (1, "audio", synchronized.AAC, 1),
            (1, "audio", synchronized.AAC, 5),
        ):
            stem = f"{kind}-{name}-{seconds}"
            command += ["-map", str(number), *codec, "-threads", "1", "-output_ts_offset", str(OFFSET)]
            command += ["-f", "hls", "-hls_time", str(seconds), "-hls_list_size", "0"]
            if kind == "mp4":
                command += ["-hls_segment_type", "fmp4", "-hls_fmp4_init_filename", f"{stem}-init.mp4"]
            command += ["-hls_segment_filename", f"{stem}-%d.{suffix}", f"{stem}.m3u8"]
    tools.run_ffmpeg(*command, folder=folder)


def _playlist(text: str) -> Response:
    return Response(200, text.encode(), {"Content-Type": "application/vnd.apple.mpegurl"})
