"""Streams by YouTube's itag numbers, with the ffmpeg options that create each."""

from __future__ import annotations

from dataclasses import dataclass

#: Frequency in Hz of the audio in each language, so that tests can tell them apart.
TONES = {"en": 440, "de": 330, "fr": 550}

_WIDTHS = {144: 256, 240: 426, 360: 640, 480: 854, 720: 1280, 1080: 1920, 1440: 2560, 2160: 3840}
_QUALITIES = {
    144: "tiny",
    240: "small",
    360: "medium",
    480: "large",
    720: "hd720",
    1080: "hd1080",
    1440: "hd1440",
    2160: "hd2160",
}
# Fast presets: quality does not matter.
_X264 = "-c:v libx264 -preset ultrafast -crf 32"
_VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 45 -b:v 0"
_AV1 = "-c:v libsvtav1 -preset 12 -crf 50"
_HDR = (
    "-vf format=yuv420p10le,"
    "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:range=limited"
)
_FRAGMENTED = "-movflags +frag_keyframe+empty_moov+default_base_moof+global_sidx"
# One thread and no encoder name in the file: one machine always produces the same bytes.
_EXACT = "-threads 1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact"


@dataclass(frozen=True)
class Stream:
    """One itag: its properties in the player response, and its encoder."""

    itag: int
    #: ``mp4`` or ``webm``.
    container: str
    #: As in a MIME type, e.g. ``avc1.640028``.
    codecs: str
    #: ffmpeg options.
    encoder: str
    #: Pixels; 0 without video.
    height: int = 0
    fps: int = 0
    hdr: bool = False
    #: Bits per second of the audio; 0 without audio.
    audio_bitrate: int = 0

    @property
    def width(self) -> int:
        """Pixels; 0 without video."""
        return _WIDTHS.get(self.height, 0)

    @property
    def quality(self) -> str:
        """YouTube's name of the height, e.g. ``hd1080``; ``tiny`` for audio."""
        return _QUALITIES.get(self.height, "tiny")

    @property
    def label(self) -> str:
        """Label in the quality menu, e.g. ``2160p60 HDR``."""
        return f"{self.height}p{self.fps if self.fps > 30 else ''}{' HDR' if self.hdr else ''}"

    @property
    def mime(self) -> str:
        """E.g. ``video/mp4; codecs="avc1.640028"``."""
        kind = "video" if self.height else "audio"
        return f'{kind}/{self.container}; codecs="{self.codecs}"'


@dataclass(frozen=True)
class Content:
    """Content of a stream, shared by many videos."""

    name: str
    seconds: int
    #: Maximum of frames per second; limits the time to encode.
    fps: int = 60
    #: Noise in the picture and a fixed bit rate, for a large file.
    heavy: bool = False


#: Content of nearly every video.
CLIP = Content("clip", seconds=6)
#: Long enough for twenty caption lines.
TALK = Content("talk", seconds=60, fps=5)
#: Tens of megabytes: more than one 10 MiB chunk, for throttling.
HEAVY = Content("heavy", seconds=6, heavy=True)


def ffmpeg_options(stream: Stream, content: Content, language: str) -> list[str]:
    """Return the ffmpeg options for *stream* without the file name; *language* of its audio."""
    duration, inputs = f"d={content.seconds}", []
    if stream.height:
        rate = min(stream.fps, content.fps)
        noise = ",noise=alls=60:allf=t" if content.heavy else ""
        picture = f"testsrc2=s={stream.width}x{stream.height}:r={rate}:{duration}{noise}"
        inputs += ["-f", "lavfi", "-i", picture]
    if stream.audio_bitrate:
        tone = f"sine=frequency={TONES[language]}:sample_rate=48000:{duration}"
        inputs += ["-f", "lavfi", "-i", tone, "-ac", "2", "-b:a", str(stream.audio_bitrate)]
    pixels = "" if stream.hdr or not stream.height else "-pix_fmt yuv420p"
    bits = "-b:v 40M -maxrate 40M -bufsize 40M" if content.heavy and stream.height else ""
    muxer = _FRAGMENTED if stream.container == "mp4" else "-cues_to_front 1"
    options = f"{stream.encoder} {pixels} {bits} -g 50 {_EXACT} {muxer} -f {stream.container}"
    return [*inputs, *options.split()]


def _frame_rate(height: int) -> int:
    return 25 if height <= 720 else 10 if height < 2160 else 5


def _video_streams(container: str, encoder: str, rows: str) -> list[Stream]:
    """Return a video stream for each ``itag/height/codecs`` of *rows*."""
    cells = (row.split("/") for row in rows.split())
    return [
        Stream(int(itag), container, codecs, encoder, int(height), _frame_rate(int(height)))
        for itag, height, codecs in cells
    ]


_TABLE = [
    Stream(18, "mp4", "avc1.42001E, mp4a.40.2", f"{_X264} -c:a aac", 360, 25, audio_bitrate=96_000),
    *_video_streams(
        "mp4",
        _X264,
        "160/144/avc1.4d400c 133/240/avc1.4d4015 134/360/avc1.4d401e 135/480/avc1.4d401f"
        " 136/720/avc1.4d401f 137/1080/avc1.640028 264/1440/avc1.640032 266/2160/avc1.640033",
    ),
    *_video_streams(
        "webm",
        _VP9,
        "278/144/vp9 242/240/vp9 243/360/vp9 244/480/vp9 247/720/vp9 248/1080/vp9 271/1440/vp9 313/2160/vp9",
    ),
    *_video_streams(
        "mp4",
        _AV1,
        "394/144/av01.0.00M.08 395/240/av01.0.00M.08 396/360/av01.0.01M.08 397/480/av01.0.04M.08"
        " 398/720/av01.0.05M.08 399/1080/av01.0.08M.08 400/1440/av01.0.12M.08 401/2160/av01.0.12M.08",
    ),
    Stream(298, "mp4", "avc1.4d4020", _X264, 720, 60),
    Stream(299, "mp4", "avc1.64002a", _X264, 1080, 60),
    Stream(302, "webm", "vp9", _VP9, 720, 60),
    Stream(698, "mp4", "av01.0.05M.10.0.110.09.16.09.0", f"{_AV1} {_HDR}", 720, 10, hdr=True),
    Stream(699, "mp4", "av01.0.09M.10.0.110.09.16.09.0", f"{_AV1} {_HDR}", 1080, 10, hdr=True),
    Stream(139, "mp4", "mp4a.40.5", "-c:a aac", audio_bitrate=48_000),
    Stream(140, "mp4", "mp4a.40.2", "-c:a aac", audio_bitrate=128_000),
    Stream(249, "webm", "opus", "-c:a libopus", audio_bitrate=50_000),
    Stream(250, "webm", "opus", "-c:a libopus", audio_bitrate=70_000),
    Stream(251, "webm", "opus", "-c:a libopus", audio_bitrate=128_000),
]
#: Every stream by its itag.
STREAMS = {stream.itag: stream for stream in _TABLE}
AVC_UP_TO_1080 = (160, 133, 134, 135, 136, 137)
VP9 = (278, 242, 243, 244, 247, 248, 271, 313)
AV1 = (394, 395, 396, 397, 398, 399, 400, 401)
