"""Separately delivered streams keep their common clock: in every file, flash and beep coincide."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import pytest
from tests.sites import synchronized, tools

from reelhaul.type.v1.media_pb2 import Format, FormatSpec, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import inspector_client
from reelhaul_fetcher.media import tools as media_tools
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing.cuts import Cut, TimeRange
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.live.recorder import Recording
from reelhaul_fetcher.ytdlp.postprocess.pipeline import postprocess
from reelhaul_fetcher.ytdlp.postprocess.plan import Output, OutputPlan

_SECONDS = 6.0
MP4, MKV, WEBM = FormatSpec.MP4, FormatSpec.MKV, FormatSpec.WEBM


@dataclass(frozen=True)
class Stream:
    """A stream of the site: what was kept of it, its timestamps, and when its presentation begins by them."""

    suffix: str = "mp4"
    start: float = 0.0
    end: float = _SECONDS
    offset: float = 10.0
    presentation_start: float = 0.0


@pytest.fixture(autouse=True)
def inspector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An inspector and ffmpeg, as in every child."""
    monkeypatch.setenv("PATH", str(media_tools.link(tmp_path / "tools")), prepend=os.pathsep)
    inspector_client.start()
    yield
    inspector_client.stop()


@pytest.fixture(scope="session")
def stream_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Stream], Path]:
    """Returns the file of a stream, which is encoded once."""
    folder, files = tmp_path_factory.mktemp("separate"), dict[tuple[str, Stream], Path]()

    def create(kind: str, stream: Stream) -> Path:
        if (kind, stream) not in files:
            path = folder / f"{len(files)}.{stream.suffix}"
            webm = stream.suffix == "webm"
            video = synchronized.VP8 if webm else synchronized.H264
            codec = video if kind == "video" else synchronized.OPUS if webm else synchronized.AAC
            synchronized.create(
                kind, path, codec, seconds=stream.end, start=stream.start, offset=stream.offset
            )
            files[kind, stream] = path
        return files[kind, stream]

    return create


def _make(
    folder: Path,
    files: Sequence[Path],
    spec: FormatSpec,
    cut: Cut | None = None,
    presentation_starts: tuple[float, ...] = (),
    recording: Recording | None = None,
) -> Output:
    """Make the file that *spec* asks for of copies of *files* in *folder*."""
    copies = [folder / f"stream{number}{path.suffix}" for number, path in enumerate(files)]
    for copy, path in zip(copies, files, strict=True):
        copy.write_bytes(path.read_bytes())
    request = FetchRequest("http://site.example/", spec, folder, "http://127.0.0.1:9")
    formats = [Format(format_id=str(number)) for number in range(len(files))]
    if recording:
        recording = replace(recording, files=copies)
    media = MediaInfo(title="Moments")
    plan = OutputPlan(request, media, formats, cut=cut or Cut(), recording=recording)
    received = [
        ReceivedStream((copy,), presentation_starts=(start,))
        for copy, start in zip_longest(copies, presentation_starts, fillvalue=0.0)
    ]
    tracker = ProgressTracker(lambda _: None, lambda: 0.0)
    tracker.begin_stage(Progress.DOWNLOADING)
    return postprocess(received, plan, tracker, lambda _: None)


def _check(output: Output, count: int, after: float = 1.05) -> Path:
    """Check that at least *count* flashes *after* a second each have their beep; return the file."""
    path = output.products[0].path
    offsets = synchronized.offsets(path, after)
    assert len(offsets) >= count, f"flashes {synchronized.flashes(path)}, beeps {synchronized.beeps(path)}"
    assert max(map(abs, offsets)) < 0.15, offsets
    return path


@pytest.mark.parametrize("container", [MP4, MKV])
@pytest.mark.parametrize(
    ("video", "audio"),
    [
        pytest.param(Stream("ts"), Stream("ts", start=1), id="MPEG-TS, audio later"),
        pytest.param(Stream("ts", start=1), Stream("ts"), id="MPEG-TS, audio earlier"),
        pytest.param(Stream("mp4"), Stream("mp4", start=1), id="fMP4, audio later"),
        pytest.param(Stream("mp4", start=1), Stream("mp4"), id="fMP4, audio earlier"),
        pytest.param(Stream("mp4"), Stream("mp4"), id="fMP4, together"),
        pytest.param(Stream("ts"), Stream("mp4", start=1, offset=11.4), id="MPEG-TS and fMP4"),
        pytest.param(Stream("ts", offset=95442.5), Stream("ts", offset=95442.5, start=1), id="clock wraps"),
        pytest.param(
            Stream("mp4", presentation_start=10),
            Stream("mp4", start=1, offset=100, presentation_start=100),
            id="DASH with presentation time offsets",
        ),
        pytest.param(Stream("mp4", offset=0), Stream("mp4", offset=500), id="no common clock"),
    ],
)
def test_start_difference(
    video: Stream,
    audio: Stream,
    container: FormatSpec.Container.ValueType,
    stream_file: Callable[[str, Stream], Path],
    tmp_path: Path,
) -> None:
    """A stream that begins later does so in the file, and its first second is not lost."""
    files = [stream_file("video", video), stream_file("audio", audio)]
    starts = (video.presentation_start, audio.presentation_start)
    output = _make(tmp_path, files, FormatSpec(container=container), presentation_starts=starts)
    path = _check(output, 2)
    assert not output.delivered.transcoded
    assert tools.probe(path).duration == pytest.approx(_SECONDS, abs=0.2)


@pytest.mark.parametrize("container", [MP4, MKV, WEBM])
@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([(0.2, 5)], id="clip across the start of the audio"),
        pytest.param([(1.5, 5.5)], id="clip after it"),
        pytest.param([(1.5, math.inf)], id="clip to the end"),
        pytest.param([(0.2, 3), (4, 6)], id="segment removed"),
    ],
)
@pytest.mark.parametrize("later", ["audio", "video"])
def test_cut_of_separate_streams(
    ranges: list[tuple[float, float]],
    later: str,
    container: FormatSpec.Container.ValueType,
    stream_file: Callable[[str, Stream], Path],
    tmp_path: Path,
) -> None:
    """A clip has both streams from the same moments, whichever begins later."""
    files = [
        stream_file(kind, Stream("ts", start=1) if kind == later else Stream("ts"))
        for kind in ("video", "audio")
    ]
    cut = Cut(tuple(TimeRange(*limits) for limits in ranges))
    output = _make(tmp_path, files, FormatSpec(container=container), cut)
    path = _check(output, 2, after=max(0.0, 1.05 - ranges[0][0]))
    length = sum(min(end, _SECONDS) - start for start, end in ranges)
    assert tools.probe(path).duration == pytest.approx(length, abs=0.2)


def test_webm(stream_file: Callable[[str, Stream], Path], tmp_path: Path) -> None:
    """WebM streams keep their clock in WebM."""
    files = [stream_file("video", Stream("webm")), stream_file("audio", Stream("webm", start=1))]
    output = _make(tmp_path, files, FormatSpec(container=WEBM))
    _check(output, 2)
    assert not output.delivered.transcoded


def _pack(audio: Path, start: float) -> bytes:
    """Return the ADTS frames of *audio* as segments, each after an ID3 tag with its timestamp."""
    bare = audio.with_suffix(".aac")
    tools.run_ffmpeg("-y", "-i", str(audio), "-c", "copy", str(bare))
    content, packed, position, number = bare.read_bytes(), b"", 0, 0
    while position < len(content):
        if number % 50 == 0:
            timestamp = round((start + number * 1024 / 44_100) * 90_000).to_bytes(8)
            body = b"com.apple.streaming.transportStreamTimestamp\x00" + timestamp
            frame = b"PRIV" + len(body).to_bytes(4) + b"\x00\x00" + body
            packed += b"ID3\x04\x00\x00" + len(frame).to_bytes(4) + frame
        length = int.from_bytes(content[position + 3 : position + 6]) >> 5 & 0x1FFF
        packed += content[position : position + length]
        position, number = position + length, number + 1
    return packed


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_packed_audio(start: float, stream_file: Callable[[str, Stream], Path], tmp_path: Path) -> None:
    """Audio without a container begins when its ID3 tag says."""
    audio = tmp_path / "packed.aac"
    # MPEG-TS of ffmpeg begins 1.4 s later than asked.
    audio.write_bytes(_pack(stream_file("audio", Stream("mp4", start=start)), 10 + 1.4 + start))
    _check(_make(tmp_path, [stream_file("video", Stream("ts")), audio], FormatSpec()), 2)


@pytest.mark.parametrize(
    ("video", "audio", "text"),
    [
        (Stream(), Stream(end=3), "the audio ends 3.0 s before the video"),
        (Stream(end=3), Stream(), "the audio ends 3.0 s after the video"),
        (Stream(), Stream(start=2.5), "the audio begins 2.5 s after the video"),
        (
            Stream(start=2.5),
            Stream(end=3.5),
            "the audio begins 2.5 s before the video and ends 2.5 s before the video",
        ),
    ],
)
def test_unequal_streams(
    video: Stream, audio: Stream, text: str, stream_file: Callable[[str, Stream], Path], tmp_path: Path
) -> None:
    """Streams of unequal length are delivered as they are, with a warning."""
    files = [stream_file("video", video), stream_file("audio", audio)]
    output = _make(tmp_path, files, FormatSpec())
    assert tools.probe(output.products[0].path).duration == pytest.approx(_SECONDS, abs=0.2)
    (warning,) = output.warnings
    assert warning.reason == MediaWarning.STREAMS_UNEQUAL
    assert warning.message == text


def test_clip_before_the_audio(stream_file: Callable[[str, Stream], Path], tmp_path: Path) -> None:
    """A clip that ends before the audio begins is delivered, in silence."""
    files = [stream_file("video", Stream("ts")), stream_file("audio", Stream("ts", start=2))]
    output = _make(tmp_path, files, FormatSpec(), Cut((TimeRange(0.2, 1.5),)))
    path = output.products[0].path
    assert tools.probe(path).duration == pytest.approx(1.3, abs=0.1)
    assert synchronized.flashes(path)
    assert not synchronized.beeps(path)


@pytest.mark.parametrize("container", [MP4, MKV, WEBM])
@pytest.mark.parametrize("suffix", ["ts", "mp4"])
@pytest.mark.parametrize(
    ("video", "audio", "end", "length"),
    [
        pytest.param({"start": 1}, {}, 5, 5, id="audio from before the video"),
        pytest.param({}, {"start": 1}, 6, 6, id="audio later"),
        pytest.param({"start": 1}, {"end": 5}, 3.5, 4, id="audio ends after the common end"),
        pytest.param({"end": 5}, {}, 4.5, 5, id="video ends after the common end"),
        pytest.param({}, {"end": 4.5}, 5.5, 5.5, id="audio ends early"),
    ],
)
def test_recorded_streams(
    video: dict[str, float],
    audio: dict[str, float],
    end: float,
    length: float,
    suffix: str,
    container: FormatSpec.Container.ValueType,
    stream_file: Callable[[str, Stream], Path],
    tmp_path: Path,
) -> None:
    """A recording begins with its video, and ends where all its streams do."""
    files = [stream_file("video", Stream(suffix, **video)), stream_file("audio", Stream(suffix, **audio))]
    start = audio.get("start", 0.0) - video.get("start", 0.0)
    ends = [end, end]
    recording = Recording([], [0.0, start], ends, end, 0.0, MediaWarning.REASON_UNSPECIFIED)
    output = _make(tmp_path, files, FormatSpec(container=container), recording=recording)
    path = _check(output, 1)
    assert tools.probe(path).duration == pytest.approx(length, abs=0.2)


@pytest.mark.parametrize("gap_in", ["video", "audio", "both"])
def test_recording_with_a_gap(gap_in: str, tmp_path: Path) -> None:
    """After an outage of one stream or both, the streams are in step again."""
    files = []
    for kind, codec in (("video", synchronized.H264), ("audio", synchronized.AAC)):
        has_gap = gap_in in (kind, "both")
        spans = [(0.0, 3.0), (15.0 if kind == "video" else 16.0, 22.0)] if has_gap else [(0.0, 22.0)]
        parts = [
            synchronized.create(kind, tmp_path / f"{n}.ts", codec, seconds=end, start=start, offset=10)
            for n, (start, end) in enumerate(spans)
        ]
        files.append(tmp_path / f"{kind}.ts")
        files[-1].write_bytes(b"".join(part.read_bytes() for part in parts))
    recording = Recording([], [0.0, 0.0], [22.0, 22.0], 22.0, 13.0, MediaWarning.REASON_UNSPECIFIED)
    output = _make(tmp_path, files, FormatSpec(), recording=recording)
    offsets = synchronized.offsets(output.products[0].path, 16.1)
    assert len(offsets) >= 1
    assert max(map(abs, offsets)) < 0.15, offsets
    assert tools.probe(output.products[0].path).duration == pytest.approx(22, abs=0.3)


@pytest.mark.parametrize("later", ["audio", "video"])
@pytest.mark.parametrize("suffix", ["ts", "mp4"])
def test_parts_of_separate_streams(
    later: str, suffix: str, stream_file: Callable[[str, Stream], Path], tmp_path: Path
) -> None:
    """In each part with a clock of its own, the streams keep their offset."""
    request = FetchRequest("http://site.example/", FormatSpec(), tmp_path, "http://127.0.0.1:9")
    received = []
    for kind in ("video", "audio"):
        parts = [Stream(suffix), Stream(suffix, start=1.5 if kind == later else 0.5, offset=100)]
        copies = [tmp_path / f"{kind}{number}.{suffix}" for number in range(len(parts))]
        for copy, part in zip(copies, parts, strict=True):
            copy.write_bytes(stream_file(kind, part).read_bytes())
        received.append(ReceivedStream(tuple(copies)))
    plan = OutputPlan(request, MediaInfo(title="Moments"), [Format(format_id="0"), Format(format_id="1")])
    tracker = ProgressTracker(lambda _: None, lambda: 0.0)
    path = _check(postprocess(received, plan, tracker, lambda _: None), 2, after=7.05)
    assert tools.probe(path).duration == pytest.approx(11.5, abs=0.3)
