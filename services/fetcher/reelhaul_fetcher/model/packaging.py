"""How streams become the file that was asked for: copied where they fit, encoded anew where not."""

from __future__ import annotations

from dataclasses import dataclass

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
_ENCODE_AUDIO: dict[Container.ValueType, tuple[str, ...]] = {
    Container.MP4: ("aac", "-b:a", "192k"),
    Container.WEBM: ("libopus", "-b:a", "160k"),
}

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
_LOSSLESS = (Audio.FLAC, Audio.WAV)
_DEFAULT_KBPS = 192


@dataclass(frozen=True, slots=True)
class Package:
    """The file to make: its extension, and ffmpeg's codec arguments for picture and sound."""

    extension: str
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()

    @property
    def encodes(self) -> bool:
        """Whether a stream is encoded anew: it takes long, and is told as a warning."""
        return any(arguments and arguments != ("copy",) for arguments in (self.video, self.audio))


def package(video_codec: str, audio_codec: str, spec: FormatSpec) -> Package:
    """How to pack streams of these codecs (ffprobe's names; empty: no such stream)."""
    if spec.media_kind == FormatSpec.AUDIO:
        return _audio(audio_codec, spec.audio)
    container = spec.container or _natural(video_codec, audio_codec)
    return Package(
        _EXTENSION[container],
        _fitted(video_codec, container, _ENCODE_VIDEO),
        _fitted(audio_codec, container, _ENCODE_AUDIO),
    )


def _natural(video_codec: str, audio_codec: str) -> Container.ValueType:
    """MP4 where the streams fit, else MKV."""
    fits = all(codecs.plays(codec, Container.MP4) for codec in (video_codec, audio_codec) if codec)
    return Container.MP4 if fits else Container.MKV


def _fitted(
    codec: str, container: Container.ValueType, encoders: dict[Container.ValueType, tuple[str, ...]]
) -> tuple[str, ...]:
    if not codec:
        return ()
    return ("copy",) if codecs.holds(codec, container) else encoders[container]


def _audio(codec: str, asked: Audio) -> Package:
    if asked.format == Audio.FORMAT_UNSPECIFIED:
        as_offered = {
            "aac": "m4a",
            "alac": "m4a",
            "mp3": "mp3",
            "opus": "opus",
            "vorbis": "ogg",
            "flac": "flac",
        }
        if codec in as_offered:
            return Package(as_offered[codec], audio=("copy",))
        return Package("m4a", audio=("aac", "-b:a", f"{_DEFAULT_KBPS}k"))
    extension, taken, encoder = _AUDIO[asked.format]
    if codec == taken:
        return Package(extension, audio=("copy",))
    if asked.format in _LOSSLESS:
        return Package(extension, audio=(encoder,))
    return Package(extension, audio=(encoder, "-b:a", f"{asked.bitrate_kbps or _DEFAULT_KBPS}k"))
