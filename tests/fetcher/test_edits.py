"""Edits after the download: clips, embedded subtitles, covers and chapters, split chapters, SponsorBlock."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2
from tests.fetcher.conftest import Harness
from tests.sites import tools
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.media import tools as media_tools
from reelhaul_fetcher.model.engine_requests import FetchResult
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Audio, Clip, Subtitles = FormatSpec.Audio, FormatSpec.Clip, FormatSpec.Subtitles
MP4, WEBM, MKV = FormatSpec.MP4, FormatSpec.WEBM, FormatSpec.MKV


def clip(start: float, end: float | None = None) -> Clip:
    """Return the clip from *start* to *end* seconds."""
    result = Clip(start=seconds(start))
    if end is not None:
        result.end.CopyFrom(seconds(end))
    return result


def seconds(value: float) -> duration_pb2.Duration:
    """Convert *value* to a Duration."""
    return duration_pb2.Duration(nanos=round(value * 1e9) % 10**9, seconds=int(value))


def probe(path: Path) -> dict[str, Any]:
    """Return ffprobe's output for *path*."""
    command = [str(tools.ffprobe()), "-v", "error", "-show_streams", "-show_format", "-show_chapters"]
    completed = subprocess.run([*command, "-of", "json", str(path)], check=True, capture_output=True)
    output: dict[str, Any] = json.loads(completed.stdout)
    return output


def length(result: FetchResult) -> float:
    """Return the delivered duration in seconds."""
    return result.delivered.duration.ToTimedelta().total_seconds()


def frame_at(path: Path, second: float) -> bytes:
    """Return the frame at *second*, as 32 by 18 gray pixels."""
    command = [str(tools.ffmpeg()), "-v", "error", "-ss", f"{second}", "-i", str(path), "-frames:v", "1"]
    scale = ["-vf", "scale=32:18,format=gray", "-f", "rawvideo", "-"]
    return subprocess.run([*command, *scale], check=True, capture_output=True).stdout


def difference(first: bytes, second: bytes) -> float:
    """Return the mean difference between the pixels of two frames."""
    assert len(first) == len(second) > 0
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)


def find_frame(frame: bytes, path: Path) -> float:
    """Return the second of *path* at which its frame is most similar to *frame*."""
    command = [str(tools.ffmpeg()), "-v", "error", "-i", str(path), "-vf", "fps=25,scale=32:18,format=gray"]
    frames = subprocess.run([*command, "-f", "rawvideo", "-"], check=True, capture_output=True).stdout
    count = len(frames) // len(frame)
    return min(range(count), key=lambda n: difference(frames[n * 576 : n * 576 + 576], frame)) / 25


@pytest.mark.parametrize(("start", "end"), [(1.2, 3.4), (0.0, 1.5), (5.0, None)])
async def test_clip_is_exact(harness: Harness, site: Site, start: float, end: float | None) -> None:
    """A clip has the requested duration, to the frame, and begins with the frame at its start."""
    report = await harness.fetch(site.url("/media/360.mp4"), FormatSpec(clip=clip(start, end)))
    assert length(report) == pytest.approx((end or 8.0) - start, abs=0.08)
    assert report.delivered.transcoded
    assert list(report.warnings) == []
    original = site.media.file("/media/360.mp4")
    result = report.products[0].path
    assert difference(frame_at(result, 0.0), frame_at(original, start)) < 4
    assert difference(frame_at(result, 1.0), frame_at(original, start + 1)) < 4


@pytest.mark.parametrize("container", [MP4, WEBM, MKV])
async def test_clip_of_separate_streams(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType
) -> None:
    """Video and audio that are separate streams are cut at the same times, in each container."""
    spec = FormatSpec(max_height=360, container=container, clip=clip(1.5, 4.0))
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    assert length(report) == pytest.approx(2.5, abs=0.1)
    streams = probe(report.products[0].path)["streams"]
    assert {stream["codec_type"] for stream in streams} == {"video", "audio"}
    starts = [float(stream["start_time"]) for stream in streams]
    assert max(starts) - min(starts) < 0.06


@pytest.mark.parametrize(("ffmpeg", "format_id"), [("imageio", "394"), ("shaka", "160")])
async def test_clip_of_av1(youtube: YouTube, tmp_path: Path, ffmpeg: str, format_id: str) -> None:
    """AV1 (format 394) is cut if ffmpeg can decode it; with an ffmpeg that cannot, H.264 (160) is chosen."""
    tools_folder, home = media_tools.link(tmp_path / "tools"), tmp_path / "home"
    home.mkdir()
    if ffmpeg == "shaka":
        (tools_folder / "ffmpeg").unlink()
        (tools_folder / "ffmpeg").symlink_to(tools.ffmpeg())
    environment = build_environment(tools_folder, home, write_ca_bundle(youtube.ca_file, tmp_path))
    spec = FormatSpec(max_height=144, video_codecs=[FormatSpec.AV1], clip=clip(1, 2))
    async with (
        running_guard(GuardConfig(egresses={"": youtube.proxy_url})) as guard,
        YtDlpEngine.open(environment, "test-worker") as engine,
    ):
        await engine.wait_until_warm()
        report = await Harness(engine, guard, tmp_path).fetch(youtube.watch_url("plain2160"), spec)
    assert report.delivered.format_ids[0] == format_id
    assert length(report) == pytest.approx(1, abs=0.1)
    assert report.delivered.height == 144


@pytest.mark.parametrize("container", [MP4, WEBM])
async def test_clip_of_high_dynamic_range(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType
) -> None:
    """A clip of an HDR video is HDR."""
    spec = FormatSpec(
        max_height=720, container=container, dynamic_range=FormatSpec.REQUIRE_HDR, clip=clip(1, 2)
    )
    report = await youtube_harness.fetch(youtube.watch_url("hdr1080"), spec)
    assert (report.delivered.dynamic_range, report.delivered.height) == ("HDR10", 720)
    assert length(report) == pytest.approx(1, abs=0.2)


async def test_clip_of_audio(youtube_harness: Harness, youtube: YouTube) -> None:
    """Audio is cut without being transcoded."""
    audio = Audio(format=Audio.M4A)
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=audio, clip=clip(1, 3))
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    assert length(report) == pytest.approx(2, abs=0.06)
    assert not report.delivered.transcoded


async def test_clip_beyond_the_end(harness: Harness, site: Site) -> None:
    """A clip that begins after the end fails, and no media is downloaded."""
    before = site.count("/media/1080.mp4")
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/watch/jsonld"), FormatSpec(clip=clip(20, 30)))
    assert failure.value.reason == ErrorReason.CLIP_OUT_OF_RANGE
    assert before == site.count("/media/1080.mp4")


async def test_subtitles_move_with_the_clip(youtube_harness: Harness, youtube: YouTube) -> None:
    """Subtitles of a clip are shifted to its start; those outside of it are removed."""
    spec = FormatSpec(max_height=360, clip=clip(2, 6), subtitles=Subtitles(languages=["en"]))
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    text = report.products[1].path.read_text()
    assert "00:00:00,500 --> 00:00:02,000\nand a tone beside it" in text
    assert "a picture that moves" not in text


@pytest.mark.parametrize(("container", "codec"), [(MP4, "mov_text"), (MKV, "subrip"), (WEBM, "webvtt")])
async def test_subtitles_in_the_container(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType, codec: str
) -> None:
    """Embedded subtitles are in the media file, with their languages, and separate files as well."""
    subtitles = Subtitles(languages=["en", "de"], kinds=Subtitles.MANUAL, embed=True)
    spec = FormatSpec(max_height=360, container=container, subtitles=subtitles)
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    streams = [s for s in probe(report.products[0].path)["streams"] if s["codec_type"] == "subtitle"]
    assert [s["codec_name"] for s in streams] == [codec, codec]
    assert [s["tags"]["language"] for s in streams] in (["eng", "ger"], ["eng", "deu"])
    assert [p.info.language_code for p in report.products[1:]] == ["en", "de"]
    assert not report.delivered.transcoded


@pytest.mark.parametrize(
    ("spec", "extension"),
    [
        (FormatSpec(max_height=360, container=MP4), "mp4"),
        (FormatSpec(max_height=360, container=MKV), "mkv"),
        (FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.M4A)), "m4a"),
        (FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.MP3)), "mp3"),
        (FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.FLAC)), "flac"),
    ],
)
async def test_cover_in_the_container(
    youtube_harness: Harness, youtube: YouTube, spec: FormatSpec, extension: str
) -> None:
    """The thumbnail is a separate file, and the cover of the media file if its container supports one."""
    spec.thumbnail = True
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    media, thumbnail = report.products
    covers = [s for s in probe(media.path)["streams"] if s["disposition"]["attached_pic"]]
    assert (media.path.suffix, [s["codec_name"] for s in covers]) == (f".{extension}", ["mjpeg"])
    assert thumbnail.info.kind == ArtifactInfo.THUMBNAIL
    assert report.delivered.container == extension


async def test_container_without_a_cover(youtube_harness: Harness, youtube: YouTube) -> None:
    """If the container supports no cover, the thumbnail is delivered as a separate file only."""
    spec = FormatSpec(max_height=360, container=WEBM, thumbnail=True)
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    assert [s["codec_type"] for s in probe(report.products[0].path)["streams"]] == ["video", "audio"]
    assert list(report.warnings) == []


@pytest.mark.parametrize(
    "spec",
    [
        FormatSpec(max_height=360, container=MP4),
        FormatSpec(max_height=360, container=MKV),
        FormatSpec(max_height=360, container=WEBM),
        FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.MP3)),
        FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.OPUS)),
        FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.M4A)),
    ],
)
async def test_chapters_in_the_container(
    youtube_harness: Harness, youtube: YouTube, spec: FormatSpec
) -> None:
    """Embedded chapters have their titles and times."""
    spec.chapters = FormatSpec.EMBED
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    embedded = probe(report.products[0].path)["chapters"]
    found = [
        (c["tags"]["title"], round(float(c["start_time"])), round(float(c["end_time"]))) for c in embedded
    ]
    assert found == [("Beginning", 0, 2), ("Middle", 2, 4), ("End", 4, 6)]


async def test_chapters_of_a_clip(youtube_harness: Harness, youtube: YouTube) -> None:
    """Chapters are shifted to the start of the clip."""
    spec = FormatSpec(max_height=360, container=MP4, chapters=FormatSpec.EMBED, clip=clip(3, 5))
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    embedded = probe(report.products[0].path)["chapters"]
    assert [(c["tags"]["title"], round(float(c["start_time"]), 1)) for c in embedded] == [
        ("Middle", 0.0),
        ("End", 1.0),
    ]


@pytest.mark.parametrize("container", [MP4, MKV])
async def test_split_chapters(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType
) -> None:
    """With SPLIT, each chapter is a separate playable file beside the whole."""
    spec = FormatSpec(max_height=360, container=container, chapters=FormatSpec.SPLIT)
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    whole, *parts = report.products
    extension = whole.path.suffix
    assert [part.info.file_name for part in parts] == [
        f"{number:02} {title} - A moving picture{extension}"
        for number, title in enumerate(("Beginning", "Middle", "End"), 1)
    ]
    assert {part.info.kind for part in parts} == {ArtifactInfo.CHAPTER}
    for part in parts:
        assert tools.probe(part.path).duration == pytest.approx(2, abs=0.2)


async def test_missing_chapters(youtube_harness: Harness, youtube: YouTube) -> None:
    """Media without chapters are delivered with a warning."""
    report = await youtube_harness.fetch(
        youtube.watch_url("asronly"), FormatSpec(max_height=360, chapters=FormatSpec.SPLIT)
    )
    assert [w.reason for w in report.warnings] == [Warned.CHAPTERS_MISSING]
    assert len(report.products) == 1


async def test_mark_sponsor_segments(youtube_harness: Harness, youtube: YouTube) -> None:
    """With MARK, sponsor segments become chapters, and nothing is cut."""
    spec = FormatSpec(max_height=360, container=MP4, chapters=FormatSpec.EMBED)
    spec.sponsorblock.mode = FormatSpec.SponsorBlock.MARK
    report = await youtube_harness.fetch(youtube.watch_url("sponsored"), spec)
    embedded = probe(report.products[0].path)["chapters"]
    sponsor = "[SponsorBlock] Sponsor"
    assert [(c["tags"]["title"], float(c["start_time"])) for c in embedded] == [
        ("Beginning", 0.0),
        (sponsor, 1.0),
        ("Middle", 2.0),
        (sponsor, 3.5),
        ("End", 4.5),
    ]
    assert length(report) == pytest.approx(6, abs=0.2)


async def test_remove_sponsor_segments(youtube_harness: Harness, youtube: YouTube) -> None:
    """With REMOVE, segments are cut out of video, audio, subtitles and chapters, which stay in sync."""
    spec = FormatSpec(max_height=360, container=MP4, chapters=FormatSpec.EMBED)
    spec.subtitles.CopyFrom(Subtitles(languages=["en"], formats=[Subtitles.JSON]))
    spec.sponsorblock.CopyFrom(
        FormatSpec.SponsorBlock(mode=FormatSpec.SponsorBlock.REMOVE, categories=["sponsor", "intro"])
    )
    report = await youtube_harness.fetch(youtube.watch_url("sponsored"), spec)
    assert length(report) == pytest.approx(3.5, abs=0.2)
    whole, original = report.products[0].path, youtube.file("sponsored", 134)
    # 1.5 s (the intro and a sponsor) are cut before 2.5 s; a join is off by a frame at most.
    assert find_frame(frame_at(whole, 1.0), original) == pytest.approx(2.5, abs=0.11)
    assert find_frame(frame_at(whole, 3.0), original) == pytest.approx(5.5, abs=0.11)
    cues = json.loads(report.products[1].path.read_text())
    assert [(cue["start"], cue["end"]) for cue in cues] == [(0.0, 0.5), (1.0, 2.0), (2.0, 3.5)]
    embedded = probe(whole)["chapters"]
    assert [float(chapter["start_time"]) for chapter in embedded] == [0.0, 0.5, 2.0]


async def test_remove_sponsor_segments_from_audio(youtube_harness: Harness, youtube: YouTube) -> None:
    """Segments are removed from audio files as well."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.MP3))
    spec.sponsorblock.mode = FormatSpec.SponsorBlock.REMOVE
    report = await youtube_harness.fetch(youtube.watch_url("sponsored"), spec)
    assert length(report) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("name", ["plain360", "sponsors503"])
async def test_sponsorblock_without_segments(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """If SponsorBlock has no segments or is down, the whole video is delivered with a warning."""
    spec = FormatSpec(max_height=360)
    spec.sponsorblock.mode = FormatSpec.SponsorBlock.REMOVE
    report = await youtube_harness.fetch(youtube.watch_url(name), spec)
    assert length(report) == pytest.approx(6, abs=0.2)
    assert [w.reason for w in report.warnings] == [Warned.SPONSORBLOCK_MISSING]
