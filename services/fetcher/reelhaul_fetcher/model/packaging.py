"""Packaging: container and ffmpeg codec arguments of the result; streams are copied if they fit."""

from __future__ import annotations

from bisect import bisect_right
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
    Container.WEBM: (
        *("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "6", "-crf", "32", "-b:v", "0"),
        *("-pix_fmt", "yuv420p"),
    ),
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
_ENCODER_OF_EXTENSION = {extension: encoder for extension, _, encoder in _AUDIO_FORMAT.values()}
_EXTENSION_OF_CODEC = {
    "aac": "m4a",
    "alac": "m4a",
    "mp3": "mp3",
    "opus": "opus",
    "vorbis": "ogg",
    "flac": "flac",
}
_DEFAULT_KBPS = 192
# Per channel; libopus rejects more.
_MAX_OPUS_KBPS = 256
# Stereo bitrates of the qualities 0 to 9 of libvorbis, which accepts a bitrate for few rates and channels
# only.
_VORBIS_KBPS = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320)

# Encoders of 4:2:0 need an even width and height: a picture with an odd one loses a pixel.
_VIDEO_FILTER = "crop=trunc(iw/2)*2:trunc(ih/2)*2"
# The lossy encoders reject other sample rates at the usual bitrates, and libopus other channel layouts.
_AUDIO_FILTER = "aformat=sample_rates=44100|48000:channel_layouts=mono|stereo|3.0|quad|5.0|5.1|6.1|7.1"
_LOSSLESS_ENCODERS = frozenset({"flac", "pcm_s16le"})


@dataclass(frozen=True, slots=True)
class Package:
    """The file to make: its extension, and ffmpeg's codec arguments for video and audio."""

    extension: str
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    #: Index of the audio track to use from the file received, and its language in ISO 639-2.
    audio_track: int = 0
    audio_language: str = ""

    @property
    def transcodes(self) -> bool:
        """Whether a stream is encoded again, which takes long and is reported as a warning."""
        return any(arguments and arguments != ("copy",) for arguments in (self.video, self.audio))

    @property
    def copies(self) -> bool:
        """Whether a stream is copied."""
        return ("copy",) in (self.video, self.audio)

    @property
    def video_filter(self) -> str:
        """ffmpeg's filter of pictures for the video encoder; empty without an encoder."""
        is_encoded = self.video and self.video != ("copy",) and "-vf" not in self.video
        return _VIDEO_FILTER if is_encoded else ""

    @property
    def audio_filter(self) -> str:
        """ffmpeg's filter of samples for the audio encoder; empty if it needs none."""
        return _AUDIO_FILTER if self.audio and self.audio[0] not in {"copy", *_LOSSLESS_ENCODERS} else ""


def plan_package(video_codec: str, audio_codec: str, spec: FormatSpec, audio_channels: int = 2) -> Package:
    """Return how to package streams of these codecs (libav's names; empty: no such stream).

    Media without video is packaged as audio, whatever *spec* requests.
    """
    if spec.media_kind == FormatSpec.AUDIO or not video_codec:
        return _plan_audio(audio_codec, spec.audio, audio_channels)
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
    # A copy of FLAC would keep the header with the old duration.
    if audio == ("copy",) and (joined or video or package.extension == "flac"):
        audio = (
            _AUDIO_ENCODER[_encoder_container(container)]
            if container
            else _encode_audio(_ENCODER_OF_EXTENSION[package.extension], _DEFAULT_KBPS, 1)
        )
    return replace(package, video=video, audio=audio)


def plan_encoded_package(package: Package, transfer: str) -> Package:
    """Return *package* with every stream encoded, for streams that cannot be copied into its container."""
    return plan_cut_package(package, transfer, joined=True)


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


def _plan_audio(codec: str, audio: Audio, channels: int) -> Package:
    if audio.format == Audio.FORMAT_UNSPECIFIED:
        if codec in _EXTENSION_OF_CODEC:
            return Package(_EXTENSION_OF_CODEC[codec], audio=("copy",))
        return Package("m4a", audio=_encode_audio("aac", _DEFAULT_KBPS, channels))
    extension, copied_codec, encoder = _AUDIO_FORMAT[audio.format]
    if codec == copied_codec:
        return Package(extension, audio=("copy",))
    return Package(extension, audio=_encode_audio(encoder, audio.bitrate_kbps or _DEFAULT_KBPS, channels))


def _encode_audio(encoder: str, kbps: int, channels: int) -> tuple[str, ...]:
    """Return the arguments to encode audio at about *kbps*, as far as *encoder* supports a bitrate."""
    if encoder in _LOSSLESS_ENCODERS:
        return (encoder,)
    if encoder == "libvorbis":
        return (encoder, "-q:a", str(bisect_right(_VORBIS_KBPS, kbps) - 1))
    if encoder == "libopus":
        kbps = min(kbps, _MAX_OPUS_KBPS * max(channels, 1))
    return (encoder, "-b:a", f"{kbps}k")
