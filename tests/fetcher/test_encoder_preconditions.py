"""Every combination of container, codec, odd size and sample rate is converted as requested, and plays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sites.tools import run_ffmpeg

from reelhaul.type.v1.media_pb2 import ArtifactInfo, Format, FormatSpec, MediaInfo
from reelhaul_fetcher.media import inspector_client, tools
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing.cuts import TimeRange, make_cut
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.postprocess.pipeline import postprocess
from reelhaul_fetcher.ytdlp.postprocess.plan import Output, OutputPlan

Audio, Container = FormatSpec.Audio, FormatSpec.Container
ANY, MP4, WEBM, MKV = Container.CONTAINER_UNSPECIFIED, Container.MP4, Container.WEBM, Container.MKV

_SECONDS = 2.0


def _picture(size: str = "64x48", rate: str = "25") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d=2")


def _sound(rate: int = 44100, layout: str = "stereo") -> tuple[str, ...]:
    return (
        "-f",
        "lavfi",
        "-i",
        f"aevalsrc=0.1*sin(440*2*PI*t)|0.1*sin(550*2*PI*t):s={rate}:d=2,aformat=channel_layouts={layout}",
    )


_H264 = ("-c:v", "libx264", "-preset", "ultrafast")
_YUV420 = ("-pix_fmt", "yuv420p")
_AAC, _MP3 = ("-c:a", "aac"), ("-c:a", "libmp3lame")
_PCM24 = ("-c:a", "pcm_s24le")
_VP9_OPUS = ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-c:a", "libopus")
_MONO_8K = _sound(8000, "mono")

VIDEOS = {
    "odd-sides.webm": (*_picture("65x49"), *_sound(48000), *_YUV420, *_VP9_OPUS),
    "odd-width-444.mp4": (*_picture("65x48"), *_sound(), *_H264, "-pix_fmt", "yuv444p", *_AAC),
    "odd-height-422-10.mp4": (*_picture("64x49"), *_sound(), *_H264, "-pix_fmt", "yuv422p10le", *_AAC),
    "odd-sides-mjpeg.avi": (*_picture("65x49"), *_sound(), "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", *_MP3),
    "grey.mkv": (*_picture("65x49"), *_MONO_8K, "-c:v", "ffv1", "-pix_fmt", "gray", "-c:a", "flac"),
    "alpha.mkv": (*_picture("65x49"), *_sound(96000), "-c:v", "ffv1", "-pix_fmt", "bgra", *_PCM24),
    "palette.avi": (*_picture("63x47"), *_sound(22050, "mono"), "-c:v", "rawvideo", "-c:a", "adpcm_ms"),
    "b-frames-mpeg4.avi": (*_picture(), *_sound(), "-c:v", "mpeg4", "-bf", "2", *_MP3),
    "b-frames-h264.avi": (*_picture(), *_sound(), "-c:v", "libx264", "-bf", "2", *_YUV420, *_MP3),
    "old.wmv": (*_picture(), *_sound(), "-c:v", "wmv2", "-c:a", "wmav2"),
    "old.mpg": (*_picture(), *_sound(), "-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"),
    "old.flv": (*_picture(), *_sound(), "-c:v", "flv", *_MP3),
    "old.3gp": (*_picture("128x96"), *_MONO_8K, "-c:v", "h263", *_AAC),
    "broadcast.ts": (*_picture(), *_sound(48000, "5.1(side)"), "-c:v", "mpeg2video", "-c:a", "ac3"),
    "surround.mkv": (*_picture(), *_sound(48000, "5.0(side)"), *_H264, *_YUV420, "-c:a", "flac"),
    "low-rate-mp3.flv": (*_picture("66x50"), *_sound(11025, "mono"), *_H264, *_YUV420, *_MP3),
    "slow.mkv": (*_picture(rate="7"), *_sound(), "-c:v", "mpeg4", "-c:a", "flac"),
    "silent-odd.mkv": (*_picture("33x33"), "-c:v", "ffv1", *_YUV420),
    "fraction.mkv": (*_picture(rate="24000/1001"), *_sound(), "-c:v", "mpeg4", "-c:a", "pcm_s16be"),
}  # fmt: skip

AUDIOS = {
    "mono-8k.wav": (*_MONO_8K, "-c:a", "pcm_s16le"),
    "hi-res.flac": (*_sound(192000), "-c:a", "flac"),
    "side.ac3": (*_sound(48000, "5.1(side)"), "-c:a", "ac3"),
    "seven.wav": (*_sound(44100, "7.1"), "-c:a", "pcm_s24le"),
    "slow-mono.mp3": (*_sound(11025, "mono"), *_MP3),
    "law.wav": (*_MONO_8K, "-c:a", "pcm_alaw"),
    "opus-mono.webm": (*_sound(48000, "mono"), "-c:a", "libopus"),
}


@pytest.fixture(autouse=True)
def inspector() -> Iterator[None]:
    """An inspector, as in every child."""
    inspector_client.start()
    yield
    inspector_client.stop()


@pytest.fixture(autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fetcher's ffmpeg in PATH."""
    folder = tools.link(tmp_path_factory.getbasetemp() / "tools")
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files as sites have them."""
    folder = tmp_path_factory.mktemp("sources")
    for name, command in {**VIDEOS, **AUDIOS}.items():
        run_ffmpeg(*command, "-strict", "-2", name, folder=folder)
    return folder


def _process(source: Path, folder: Path, spec: FormatSpec, cut: tuple[float, float] | None) -> Output:
    file = folder / f"stream0{source.suffix}"
    file.write_bytes(source.read_bytes())
    request = FetchRequest("http://a.example/", spec, folder, "")
    plan = OutputPlan(
        request, MediaInfo(title="A file"), [Format()], cut=make_cut(TimeRange(*cut) if cut else None, ())
    )
    tracker = ProgressTracker(lambda progress: None, time.monotonic)
    return postprocess([ReceivedStream((file,))], plan, tracker, lambda product: None)


@pytest.mark.parametrize("container", [ANY, MP4, WEBM, MKV])
@pytest.mark.parametrize("name", VIDEOS)
def test_video(sources: Path, tmp_path: Path, name: str, container: Container.ValueType) -> None:
    """Each file fits into each container: as it is, or transcoded with a warning."""
    output = _process(sources / name, tmp_path, FormatSpec(container=container), None)
    got = output.delivered
    assert output.products[0].info.kind == ArtifactInfo.VIDEO
    assert got.container in ({MP4: ["mp4"], WEBM: ["webm"], MKV: ["mkv"]}.get(container, ["mp4", "mkv"]))
    assert got.duration.ToTimedelta().total_seconds() == pytest.approx(_SECONDS, abs=0.3)
    assert bool(got.audio_codec) == (not name.startswith("silent"))
    assert got.transcoded == bool(output.warnings)


@pytest.mark.parametrize("container", [MP4, WEBM])
@pytest.mark.parametrize("name", VIDEOS)
def test_clip(sources: Path, tmp_path: Path, name: str, container: Container.ValueType) -> None:
    """A clip of each file is encoded: of an odd side one pixel is lost, of the sound nothing."""
    output = _process(sources / name, tmp_path, FormatSpec(container=container), (0.5, 1.5))
    got = output.delivered
    assert got.duration.ToTimedelta().total_seconds() == pytest.approx(1.0, abs=0.25)
    width, height = (int(side) for side in VIDEOS[name][3].split("=")[2].split(":")[0].split("x"))
    assert (got.width, got.height) == (width // 2 * 2, height // 2 * 2)
    assert bool(got.audio_codec) == (not name.startswith("silent"))


@pytest.mark.parametrize(
    ("form", "kbps"),
    [
        *((form, kbps) for form in (Audio.MP3, Audio.M4A, Audio.OPUS, Audio.OGG) for kbps in (32, 320)),
        (Audio.FLAC, 0),
        (Audio.WAV, 0),
    ],
)
@pytest.mark.parametrize("name", AUDIOS)
def test_audio(sources: Path, tmp_path: Path, name: str, form: Audio.Format.ValueType, kbps: int) -> None:
    """Sound of each rate and layout becomes each format, at the lowest and the highest bitrate."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=form, bitrate_kbps=kbps))
    output = _process(sources / name, tmp_path, spec, None)
    assert output.products[0].info.kind == ArtifactInfo.AUDIO
    assert output.delivered.duration.ToTimedelta().total_seconds() == pytest.approx(_SECONDS, abs=0.2)
