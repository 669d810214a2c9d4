"""Packaging: container and ffmpeg codec arguments of the result; streams are copied if they fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model import codecs

Audio = FormatSpec.Audio
Container = FormatSpec.Container
_Encoders = dict[Container.ValueType, tuple[str, ...]]

_EXTENSION: dict[Container.ValueType, str] = {
    Container.MP4: "mp4",
    Container.WEBM: "webm",
    Container.MKV: "mkv",
}
_CONTAINER = {extension: container for container, extension in _EXTENSION.items()}

# ffmpeg arguments, chosen for speed over the last percent of size.
_VIDEO_ENCODER: _Encoders = {
    Container.MP4: ("libx264", "-preset", "veryfast", "-crf", "21", "-pix_fmt", "yuv420p"),
    Container.WEBM: ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "6", "-crf", "32", "-b:v", "0"),
}
# HDR keeps its ten bits and its colour space.
_HDR_ENCODER: _Encoders = {
    Container.MP4: ("libx265", "-preset", "veryfast", "-crf", "23", "-tag:v", "hvc1", "-x265-params"),
    Container.WEBM: ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "6", "-crf", "32", "-b:v", "0"),
}
_AUDIO_ENCODER: _Encoders = {
    Container.MP4: ("aac", "-b:a", "192k"),
    Container.WEBM: ("libopus", "-b:a", "160k"),
}

# Audio formats: extension, the codec that is copied, the encoder.
_AUDIO_FORMAT: dict[Audio.Format.ValueType, tuple[str, str, str]] = {
    Audio.MP3: ("mp3", "mp3", "libmp3lame"),
    Audio.M4A: ("m4a", "aac", "aac"),
    Audio.OPUS: ("opus", "opus", "libopus"),
    Audio.FLAC: ("flac", "flac", "flac"),
    Audio.WAV: ("wav", "pcm_s16le", "pcm_s16le"),
    Audio.OGG: ("ogg", "vorbis", "libvorbis"),
}
_EXTENSION_OF_CODEC = {
    "aac": "m4a",
    "alac": "m4a",
    "mp3": "mp3",
    "opus": "opus",
    "vorbis": "ogg",
    "flac": "flac",
}
_AUDIO_ENCODER_OF_EXTENSION: dict[str, tuple[str, ...]] = {
    extension: (encoder,) if extension in ("flac", "wav") else (encoder, "-b:a", "192k")
    for extension, _, encoder in _AUDIO_FORMAT.values()
}
_LOSSLESS = (Audio.FLAC, Audio.WAV)
_DEFAULT_KBPS = 192


@dataclass(frozen=True, slots=True)
class Package:
    """The file to make: its extension, and ffmpeg's codec arguments for video and audio."""

    extension: str
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()

    @property
    def transcodes(self) -> bool:
        """Whether a stream is encoded again, which takes long and is reported as a warning."""
        return any(arguments and arguments != ("copy",) for arguments in (self.video, self.audio))


def plan_package(video_codec: str, audio_codec: str, spec: FormatSpec) -> Package:
    """Return how to package streams of these codecs (libav's names; empty: no such stream)."""
    if spec.media_kind == FormatSpec.AUDIO:
        return _plan_audio(audio_codec, spec.audio)
    container = spec.container or _default_container(video_codec, audio_codec)
    return Package(
        _EXTENSION[container],
        _copy_or_encode(video_codec, container, _VIDEO_ENCODER),
        _copy_or_encode(audio_codec, container, _AUDIO_ENCODER),
    )


def plan_cut_package(package: Package, transfer: str, *, joined: bool) -> Package:
    """Return *package* for media that is cut.

    Video is encoded again, so that it can begin at any frame; *transfer* is libav's name of its
    transfer characteristics. Audio is encoded again beside video or if several ranges are *joined*;
    otherwise it is cut between its frames.
    """
    video, audio = package.video, package.audio
    container = _CONTAINER.get(package.extension, Container.CONTAINER_UNSPECIFIED)
    if video == ("copy",):
        video = _hdr_arguments(transfer, container) or _VIDEO_ENCODER[_encoder_container(container)]
    if audio == ("copy",) and (joined or video):
        audio = (
            _AUDIO_ENCODER[_encoder_container(container)]
            if container
            else _AUDIO_ENCODER_OF_EXTENSION[package.extension]
        )
    return replace(package, video=video, audio=audio)


def _encoder_container(container: Container.ValueType) -> Container.ValueType:
    """Return the container whose encoders *container* uses: MKV, which takes all, those of MP4."""
    return Container.WEBM if container == Container.WEBM else Container.MP4


def _hdr_arguments(transfer: str, container: Container.ValueType) -> tuple[str, ...]:
    """Return the arguments to encode HDR video; empty if *transfer* is not that of HDR."""
    if transfer not in ("smpte2084", "arib-std-b67"):
        return ()
    encoder_container = _encoder_container(container)
    arguments = _HDR_ENCODER[encoder_container]
    if encoder_container == Container.MP4:
        arguments += (f"log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc",)
    colours = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc")
    return (*arguments, "-pix_fmt", "yuv420p10le", *colours)


def _default_container(video_codec: str, audio_codec: str) -> Container.ValueType:
    """Return MP4 if it plays the streams everywhere, else MKV."""
    playable = all(codecs.is_playable(codec, Container.MP4) for codec in (video_codec, audio_codec) if codec)
    return Container.MP4 if playable else Container.MKV


def _copy_or_encode(codec: str, container: Container.ValueType, encoders: _Encoders) -> tuple[str, ...]:
    if not codec:
        return ()
    return ("copy",) if codecs.can_contain(codec, container) else encoders[container]


def _plan_audio(codec: str, audio: Audio) -> Package:
    if audio.format == Audio.FORMAT_UNSPECIFIED:
        if codec in _EXTENSION_OF_CODEC:
            return Package(_EXTENSION_OF_CODEC[codec], audio=("copy",))
        return Package("m4a", audio=("aac", "-b:a", f"{_DEFAULT_KBPS}k"))
    extension, copied_codec, encoder = _AUDIO_FORMAT[audio.format]
    if codec == copied_codec:
        return Package(extension, audio=("copy",))
    if audio.format in _LOSSLESS:
        return Package(extension, audio=(encoder,))
    return Package(extension, audio=(encoder, "-b:a", f"{audio.bitrate_kbps or _DEFAULT_KBPS}k"))
