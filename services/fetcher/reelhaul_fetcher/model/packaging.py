"""How streams become the file that was asked for: copied where they fit, encoded anew where not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model import codecs

Audio = FormatSpec.Audio
Container = FormatSpec.Container

_EXTENSION: dict[Container.ValueType, str] = {
    Container.MP4: "mp4",
    Container.WEBM: "webm",
    Container.MKV: "mkv",
}

# ffmpeg arguments, chosen for speed over the last percent of size.
_ENCODE_VIDEO: dict[Container.ValueType, tuple[str, ...]] = {
    Container.MP4: ("libx264", "-preset", "veryfast", "-crf", "21", "-pix_fmt", "yuv420p"),
    Container.WEBM: ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "6", "-crf", "32", "-b:v", "0"),
}
# High dynamic range stays what it is: ten bits, in its own colours.
_TEN_BITS: dict[Container.ValueType, tuple[str, ...]] = {
    Container.MP4: ("libx265", "-preset", "veryfast", "-crf", "23", "-tag:v", "hvc1", "-x265-params"),
    Container.WEBM: ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "6", "-crf", "32", "-b:v", "0"),
}
_ENCODE_AUDIO: dict[Container.ValueType, tuple[str, ...]] = {
    Container.MP4: ("aac", "-b:a", "192k"),
    Container.WEBM: ("libopus", "-b:a", "160k"),
}

_CONTAINER = {extension: container for container, extension in _EXTENSION.items()}

# Audio formats: extension, the codec that is taken as it is, the encoder.
_AUDIO: dict[Audio.Format.ValueType, tuple[str, str, str]] = {
    Audio.MP3: ("mp3", "mp3", "libmp3lame"),
    Audio.M4A: ("m4a", "aac", "aac"),
    Audio.OPUS: ("opus", "opus", "libopus"),
    Audio.FLAC: ("flac", "flac", "flac"),
    Audio.WAV: ("wav", "pcm_s16le", "pcm_s16le"),
    Audio.OGG: ("ogg", "vorbis", "libvorbis"),
}
_AS_OFFERED = {"aac": "m4a", "alac": "m4a", "mp3": "mp3", "opus": "opus", "vorbis": "ogg", "flac": "flac"}
_RECODE: dict[str, tuple[str, ...]] = {
    extension: (encoder,) if extension in ("flac", "wav") else (encoder, "-b:a", "192k")
    for extension, _, encoder in _AUDIO.values()
}
_LOSSLESS = (Audio.FLAC, Audio.WAV)
_DEFAULT_KBPS = 192


@dataclass(frozen=True, slots=True)
class Package:
    """The file to make: its extension, and ffmpeg's codec arguments for picture and sound."""

    extension: str
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()

    @property
    def transcodes(self) -> bool:
        """Whether a stream is encoded anew: it takes long, and is told as a warning."""
        return any(arguments and arguments != ("copy",) for arguments in (self.video, self.audio))


def plan_cut_package(how: Package, transfer: str, *, joined: bool) -> Package:
    """*how* where the picture is cut: encoded anew, to begin at any frame. *transfer* is libav's
    name of its curve. Sound is, beside a picture and where stretches are *joined*; else it is cut
    between its frames.
    """
    video, audio = how.video, how.audio
    container = _CONTAINER.get(how.extension, Container.CONTAINER_UNSPECIFIED)
    if video == ("copy",):
        video = _high_range(transfer, container) or _ENCODE_VIDEO[_like(container)]
    if audio == ("copy",) and (joined or video):
        audio = _ENCODE_AUDIO[_like(container)] if container else _RECODE[how.extension]
    return replace(how, video=video, audio=audio)


def plan_package(video_codec: str, audio_codec: str, spec: FormatSpec) -> Package:
    """How to pack streams of these codecs (libav's names; empty: no such stream)."""
    if spec.media_kind == FormatSpec.AUDIO:
        return _audio(audio_codec, spec.audio)
    container = spec.container or _natural(video_codec, audio_codec)
    return Package(
        _EXTENSION[container],
        _fitted(video_codec, container, _ENCODE_VIDEO),
        _fitted(audio_codec, container, _ENCODE_AUDIO),
    )


def _like(container: Container.ValueType) -> Container.ValueType:
    """The container whose encoders *container* takes: Matroska takes all."""
    return Container.WEBM if container == Container.WEBM else Container.MP4


def _high_range(transfer: str, container: Container.ValueType) -> tuple[str, ...]:
    """The encoder for a picture of high dynamic range; none where *transfer* is that of an ordinary one."""
    if transfer not in ("smpte2084", "arib-std-b67"):
        return ()
    colours = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc")
    told = (f"log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc",)
    ten = _TEN_BITS[_like(container)] + (told if _like(container) == Container.MP4 else ())
    return (*ten, "-pix_fmt", "yuv420p10le", *colours)


def _natural(video_codec: str, audio_codec: str) -> Container.ValueType:
    """MP4 where the streams fit, else MKV."""
    fits = all(codecs.is_playable(codec, Container.MP4) for codec in (video_codec, audio_codec) if codec)
    return Container.MP4 if fits else Container.MKV


def _fitted(
    codec: str, container: Container.ValueType, encoders: dict[Container.ValueType, tuple[str, ...]]
) -> tuple[str, ...]:
    if not codec:
        return ()
    return ("copy",) if codecs.can_contain(codec, container) else encoders[container]


def _audio(codec: str, asked: Audio) -> Package:
    if asked.format == Audio.FORMAT_UNSPECIFIED:
        if codec in _AS_OFFERED:
            return Package(_AS_OFFERED[codec], audio=("copy",))
        return Package("m4a", audio=("aac", "-b:a", f"{_DEFAULT_KBPS}k"))
    extension, taken, encoder = _AUDIO[asked.format]
    if codec == taken:
        return Package(extension, audio=("copy",))
    if asked.format in _LOSSLESS:
        return Package(extension, audio=(encoder,))
    return Package(extension, audio=(encoder, "-b:a", f"{asked.bitrate_kbps or _DEFAULT_KBPS}k"))
