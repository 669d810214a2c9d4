"""Files that name no duration: it is measured, and an unknown duration is never taken for zero."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from tests.sites import tools

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import inspector_client
from reelhaul_fetcher.media import tools as media_tools
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing import cuts
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.postprocess.pipeline import postprocess
from reelhaul_fetcher.ytdlp.postprocess.plan import Output, OutputPlan
from reelhaul_runtime.errors import ReelhaulError

_SECONDS = 3
_VIDEO = ("-f", "lavfi", "-i", f"testsrc2=s=160x90:r=10:d={_SECONDS}")
_SOUND = ("-f", "lavfi", "-i", f"sine=d={_SECONDS}")
_VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "100k", "-c:a", "libopus")
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus")
_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "10", "-c:a", "aac")

#: By name: ffmpeg's arguments for a file as programs write it that do not know its end yet.
_FILES: dict[str, tuple[str, ...]] = {
    "recorder.webm": (*_VIDEO, *_SOUND, *_VP8, "-live", "1", "-f", "webm"),
    "vp9.webm": (*_VIDEO, *_SOUND, *_VP9, "-live", "1", "-f", "webm"),
    "silent.webm": (*_VIDEO, *_VP8[:-2], "-live", "1", "-f", "webm"),
    "stream.mkv": (*_VIDEO, *_SOUND, *_H264, "-live", "1", "-f", "matroska"),
    "voice.webm": (*_SOUND, "-c:a", "libopus", "-live", "1", "-f", "webm"),
    "fragments.mp4": (*_VIDEO, *_SOUND, *_H264, "-movflags", "empty_moov+frag_keyframe", "-f", "mp4"),
    "stream.flv": (*_VIDEO, *_SOUND, *_H264, "-flvflags", "no_duration_filesize", "-f", "flv"),
    "raw.aac": (*_SOUND, "-c:a", "aac", "-f", "adts"),
    "stream.mp3": (*_SOUND, "-c:a", "libmp3lame", "-q:a", "5", "-write_xing", "0", "-f", "mp3"),
    "stream.ogg": (*_SOUND, "-c:a", "libopus", "-f", "ogg"),
    "stream.flac": (*_SOUND, "-c:a", "flac", "-f", "flac"),
    "stream.wav": (*_SOUND, "-c:a", "pcm_s16le", "-f", "wav"),
}
_WITHOUT_VIDEO = frozenset({"voice.webm", "raw.aac", "stream.mp3", "stream.ogg", "stream.flac", "stream.wav"})


@pytest.fixture(autouse=True)
def inspector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An inspector and ffmpeg, as in every child."""
    folder = media_tools.link(tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    inspector_client.start()
    yield
    inspector_client.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files."""
    folder = tmp_path_factory.mktemp("files")
    for name, arguments in _FILES.items():
        # Through a pipe, so that nothing is written into the header afterwards.
        command = [str(tools.ffmpeg()), "-v", "error", "-nostdin", *arguments, "pipe:1"]
        (folder / name).write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    tools.run_ffmpeg(*_VIDEO, *_SOUND, *_VP8, str(folder / "seekable.webm"))
    tools.run_ffmpeg(*_VIDEO, *_SOUND, *_H264, str(folder / "seekable.flv"))
    return folder


def _postprocess(file: Path, folder: Path, spec: FormatSpec, stated: float = 0.0) -> Output:
    """Make what *spec* asks for of *file*, as after its download."""
    copy = folder / f"stream0{file.suffix}"
    copy.write_bytes(file.read_bytes())
    request = FetchRequest("http://site.invalid/", spec, folder, "http://guard.invalid:1")
    media = MediaInfo(title="title")
    if stated:
        media.duration.CopyFrom(_duration(stated))
    cut = cuts.make_cut(cuts.clip_range(spec), ())
    plan = OutputPlan(request, media, [Format(format_id="0")], cut=cut)
    tracker = ProgressTracker(lambda _: None, time.monotonic)
    return postprocess([ReceivedStream((copy,))], plan, tracker, lambda _: None)


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def _whole(name: str) -> FormatSpec:
    """Return a request for all of the file *name*, in a format that can hold its streams."""
    if name not in _WITHOUT_VIDEO:
        return FormatSpec()
    spec = FormatSpec(media_kind=FormatSpec.AUDIO)
    if name == "stream.wav":
        spec.audio.format = FormatSpec.Audio.WAV
    return spec


def _clip(name: str, start: float, end: float) -> FormatSpec:
    spec = _whole(name)
    spec.clip.CopyFrom(FormatSpec.Clip(start=_duration(start), end=_duration(end)))
    return spec


@pytest.mark.parametrize("name", _FILES)
def test_measured_duration(files: Path, name: str) -> None:
    """The duration of a file without one is that of its packets."""
    assert inspector_client.inspect(files / name).duration == pytest.approx(_SECONDS, abs=0.15)


@pytest.mark.parametrize("name", _FILES)
def test_file_without_duration(files: Path, tmp_path: Path, name: str) -> None:
    """A file without a duration is delivered with one, and is not encoded again unasked."""
    output = _postprocess(files / name, tmp_path, _whole(name))
    # FLAC is encoded again, without loss: its header has the duration.
    assert output.delivered.transcoded == (name == "stream.flac")
    assert not output.warnings
    assert tools.probe(output.products[0].path).duration == pytest.approx(_SECONDS, abs=0.2)


def test_requested_container_without_duration(files: Path, tmp_path: Path) -> None:
    """A WebM without a duration gets one also where WebM is requested: its streams are copied."""
    output = _postprocess(files / "recorder.webm", tmp_path, FormatSpec(container=FormatSpec.WEBM))
    assert output.products[0].path.suffix == ".webm"
    assert not output.delivered.transcoded
    assert tools.probe(output.products[0].path).duration == pytest.approx(_SECONDS, abs=0.2)


@pytest.mark.parametrize("name", _FILES)
def test_clip_without_duration(files: Path, tmp_path: Path, name: str) -> None:
    """A clip of a file without a duration is the clip, not the whole file."""
    output = _postprocess(files / name, tmp_path, _clip(name, 1, 2.5))
    assert tools.probe(output.products[0].path).duration == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize("name", ["recorder.webm", "fragments.mp4", "raw.aac", "stream.mp3"])
def test_clip_after_the_end(files: Path, tmp_path: Path, name: str) -> None:
    """A clip that starts after the measured end is CLIP_OUT_OF_RANGE, never the whole file."""
    with pytest.raises(ReelhaulError) as failure:
        _postprocess(files / name, tmp_path, _clip(name, 30, 40))
    assert failure.value.reason == ErrorReason.CLIP_OUT_OF_RANGE
    assert failure.value.metadata["startSeconds"] == "30"


@pytest.mark.parametrize("seconds", [1.0, 600.0])
def test_wrong_duration_of_a_header(files: Path, tmp_path: Path, seconds: float) -> None:
    """A recording whose metadata are wrong about its duration comes whole, and its clips are right."""
    content = bytearray((files / "seekable.flv").read_bytes())
    at = content.index(b"duration") + len(b"duration") + 1
    content[at : at + 8] = struct.pack(">d", seconds)
    (tmp_path / "wrong.flv").write_bytes(content)
    output = _postprocess(tmp_path / "wrong.flv", tmp_path, FormatSpec())
    assert tools.probe(output.products[0].path).duration == pytest.approx(_SECONDS, abs=0.2)
    output = _postprocess(tmp_path / "wrong.flv", tmp_path, _clip("wrong.flv", 1.5, 2.5))
    assert tools.probe(output.products[0].path).duration == pytest.approx(1, abs=0.2)


def test_header_that_says_less(files: Path, tmp_path: Path) -> None:
    """A file that is longer than its header says is not cut to what it says."""
    content = bytearray((files / "seekable.webm").read_bytes())
    at = content.index(b"\x44\x89\x88") + 3
    content[at : at + 8] = struct.pack(">d", 500.0)
    (tmp_path / "short.webm").write_bytes(content)
    output = _postprocess(tmp_path / "short.webm", tmp_path, FormatSpec())
    assert tools.probe(output.products[0].path).duration == pytest.approx(_SECONDS, abs=0.2)


@pytest.mark.parametrize("name", ["stream.ogg", "raw.aac", "stream.mp3"])
def test_appended_sounds(files: Path, tmp_path: Path, name: str) -> None:
    """Two recordings of sound in one file, one after the other, come whole."""
    both = tmp_path / f"both{Path(name).suffix}"
    both.write_bytes((files / name).read_bytes() * 2)
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=FormatSpec.Audio(format=FormatSpec.Audio.FLAC))
    output = _postprocess(both, tmp_path, spec)
    assert tools.probe(output.products[0].path).duration == pytest.approx(2 * _SECONDS, abs=0.3)


@pytest.mark.parametrize("stated", [1.0, 20.0, 6000.0])
def test_wrong_duration_of_a_page(files: Path, tmp_path: Path, stated: float) -> None:
    """A complete file is delivered whole, with a warning, whatever duration its page states."""
    output = _postprocess(files / "recorder.webm", tmp_path, FormatSpec(), stated)
    assert [warning.reason for warning in output.warnings] == [MediaWarning.DURATION_DIFFERS]
    assert output.delivered.duration.ToTimedelta().total_seconds() == pytest.approx(_SECONDS, abs=0.2)
