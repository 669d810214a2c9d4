"""What is done to media after the download: cut, dressed with words, pictures and chapters, split."""

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
from reelhaul_fetcher.model.engine_requests import FetchResult
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Audio, Clip, Subtitles = FormatSpec.Audio, FormatSpec.Clip, FormatSpec.Subtitles
MP4, WEBM, MKV = FormatSpec.MP4, FormatSpec.WEBM, FormatSpec.MKV


def clip(start: float, end: float | None = None) -> Clip:
    """The stretch from *start* to *end*."""
    made = Clip(start=seconds(start))
    if end is not None:
        made.end.CopyFrom(seconds(end))
    return made


def seconds(value: float) -> duration_pb2.Duration:
    """*value* as a Duration."""
    return duration_pb2.Duration(nanos=round(value * 1e9) % 10**9, seconds=int(value))


def shown(path: Path) -> dict[str, Any]:
    """All that ffprobe tells of *path*."""
    command = [str(tools.ffprobe()), "-v", "error", "-show_streams", "-show_format", "-show_chapters"]
    done = subprocess.run([*command, "-of", "json", str(path)], check=True, capture_output=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def length(report: FetchResult) -> float:
    """Seconds that were delivered."""
    return report.delivered.duration.ToTimedelta().total_seconds()


def picture_at(path: Path, second: float) -> bytes:
    """The frame shown at *second*, small and in greys."""
    command = [str(tools.ffmpeg()), "-v", "error", "-ss", f"{second}", "-i", str(path), "-frames:v", "1"]
    small = ["-vf", "scale=32:18,format=gray", "-f", "rawvideo", "-"]
    return subprocess.run([*command, *small], check=True, capture_output=True).stdout


def unlike(one: bytes, other: bytes) -> float:
    """How far two pictures are apart: the mean difference of their pixels."""
    assert len(one) == len(other) > 0
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def moment_of(picture: bytes, path: Path) -> float:
    """The second of *path* at which its frame is most like *picture*."""
    command = [str(tools.ffmpeg()), "-v", "error", "-i", str(path), "-vf", "fps=25,scale=32:18,format=gray"]
    frames = subprocess.run([*command, "-f", "rawvideo", "-"], check=True, capture_output=True).stdout
    count = len(frames) // len(picture)
    return min(range(count), key=lambda n: unlike(frames[n * 576 : n * 576 + 576], picture)) / 25


@pytest.mark.parametrize(("start", "end"), [(1.2, 3.4), (0.0, 1.5), (5.0, None)])
async def test_clip_is_exact(harness: Harness, site: Site, start: float, end: float | None) -> None:
    """A clip lasts what was asked, to the frame, and begins with the frame of that moment."""
    report = await harness.fetch(site.url("/media/360.mp4"), FormatSpec(clip=clip(start, end)))
    assert length(report) == pytest.approx((end or 8.0) - start, abs=0.08)
    assert report.delivered.transcoded
    assert list(report.warnings) == []
    original = site.media.file("/media/360.mp4")
    made = report.products[0].path
    assert unlike(picture_at(made, 0.0), picture_at(original, start)) < 4
    assert unlike(picture_at(made, 1.0), picture_at(original, start + 1)) < 4


@pytest.mark.parametrize("container", [MP4, WEBM, MKV])
async def test_clip_of_streams_apart(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType
) -> None:
    """Picture and sound that come apart are cut at the same moments, in each container."""
    spec = FormatSpec(max_height=360, container=container, clip=clip(1.5, 4.0))
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    assert length(report) == pytest.approx(2.5, abs=0.1)
    streams = shown(report.products[0].path)["streams"]
    assert {stream["codec_type"] for stream in streams} == {"video", "audio"}
    starts = [float(stream["start_time"]) for stream in streams]
    assert max(starts) - min(starts) < 0.06


async def test_clip_of_a_strange_codec(youtube_harness: Harness, youtube: YouTube) -> None:
    """AV1 is cut as well, or another codec is taken where this ffmpeg cannot decode it."""
    spec = FormatSpec(max_height=144, video_codecs=[FormatSpec.AV1], clip=clip(1, 2))
    report = await youtube_harness.fetch(youtube.watch_url("plain2160"), spec)
    assert length(report) == pytest.approx(1, abs=0.1)
    assert report.delivered.height == 144


@pytest.mark.parametrize("container", [MP4, WEBM])
async def test_clip_of_high_dynamic_range(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType
) -> None:
    """A clip of a picture of high range has that range."""
    spec = FormatSpec(
        max_height=720, container=container, dynamic_range=FormatSpec.REQUIRE_HDR, clip=clip(1, 2)
    )
    report = await youtube_harness.fetch(youtube.watch_url("hdr1080"), spec)
    assert (report.delivered.dynamic_range, report.delivered.height) == ("HDR10", 720)
    assert length(report) == pytest.approx(1, abs=0.2)


async def test_clip_of_sound(youtube_harness: Harness, youtube: YouTube) -> None:
    """Sound is cut without being encoded anew."""
    audio = Audio(format=Audio.M4A)
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=audio, clip=clip(1, 3))
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    assert length(report) == pytest.approx(2, abs=0.06)
    assert not report.delivered.transcoded


async def test_clip_beyond_the_end(harness: Harness, site: Site) -> None:
    """A clip that begins after the end is nothing that can be delivered, and costs no media."""
    before = site.count("/media/1080.mp4")
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/watch/jsonld"), FormatSpec(clip=clip(20, 30)))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
    assert before == site.count("/media/1080.mp4")


async def test_subtitles_move_with_the_clip(youtube_harness: Harness, youtube: YouTube) -> None:
    """Subtitles of a clip begin when it does; those outside of it are gone."""
    spec = FormatSpec(max_height=360, clip=clip(2, 6), subtitles=Subtitles(languages=["en"]))
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    text = report.products[1].path.read_text()
    assert "00:00:00,500 --> 00:00:02,000\nand a tone beside it" in text
    assert "a picture that moves" not in text


@pytest.mark.parametrize(("container", "codec"), [(MP4, "mov_text"), (MKV, "subrip"), (WEBM, "webvtt")])
async def test_subtitles_in_the_container(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType, codec: str
) -> None:
    """Embedded subtitles are in the file, with their languages, and files of their own as well."""
    asked = Subtitles(languages=["en", "de"], kinds=Subtitles.MANUAL, embed=True)
    spec = FormatSpec(max_height=360, container=container, subtitles=asked)
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    words = [s for s in shown(report.products[0].path)["streams"] if s["codec_type"] == "subtitle"]
    assert [s["codec_name"] for s in words] == [codec, codec]
    assert [s["tags"]["language"] for s in words] in (["eng", "ger"], ["eng", "deu"])
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
async def test_picture_in_the_container(
    youtube_harness: Harness, youtube: YouTube, spec: FormatSpec, extension: str
) -> None:
    """The thumbnail is a file of its own, and the cover of the media where its container takes one."""
    spec.thumbnail = True
    report = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    media, thumbnail = report.products
    covers = [s for s in shown(media.path)["streams"] if s["disposition"]["attached_pic"]]
    assert (media.path.suffix, [s["codec_name"] for s in covers]) == (f".{extension}", ["mjpeg"])
    assert thumbnail.info.kind == ArtifactInfo.THUMBNAIL
    assert report.delivered.container == extension


async def test_picture_where_it_cannot_be(youtube_harness: Harness, youtube: YouTube) -> None:
    """A container that takes no picture gets none; the thumbnail comes as a file all the same."""
    spec = FormatSpec(max_height=360, container=WEBM, thumbnail=True)
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    assert [s["codec_type"] for s in shown(report.products[0].path)["streams"]] == ["video", "audio"]
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
    """Embedded chapters have their names and times."""
    spec.chapters = FormatSpec.EMBED
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    told = shown(report.products[0].path)["chapters"]
    named = [(c["tags"]["title"], round(float(c["start_time"])), round(float(c["end_time"]))) for c in told]
    assert named == [("Beginning", 0, 2), ("Middle", 2, 4), ("End", 4, 6)]


async def test_chapters_of_a_clip(youtube_harness: Harness, youtube: YouTube) -> None:
    """Chapters move with the clip."""
    spec = FormatSpec(max_height=360, container=MP4, chapters=FormatSpec.EMBED, clip=clip(3, 5))
    report = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    told = shown(report.products[0].path)["chapters"]
    assert [(c["tags"]["title"], round(float(c["start_time"]), 1)) for c in told] == [
        ("Middle", 0.0),
        ("End", 1.0),
    ]


@pytest.mark.parametrize("container", [MP4, MKV])
async def test_chapters_apart(
    youtube_harness: Harness, youtube: YouTube, container: FormatSpec.Container.ValueType
) -> None:
    """Split, each chapter is a file of its own that plays, beside the whole."""
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


async def test_no_chapters(youtube_harness: Harness, youtube: YouTube) -> None:
    """Media without chapters are delivered without, and that is told."""
    report = await youtube_harness.fetch(
        youtube.watch_url("asronly"), FormatSpec(max_height=360, chapters=FormatSpec.SPLIT)
    )
    assert [w.reason for w in report.warnings] == [Warned.CHAPTERS_MISSING]
    assert len(report.products) == 1


async def test_sponsored_stretches_marked(youtube_harness: Harness, youtube: YouTube) -> None:
    """Marked, sponsored stretches are chapters among the others, and nothing is cut."""
    spec = FormatSpec(max_height=360, container=MP4, chapters=FormatSpec.EMBED)
    spec.sponsorblock.mode = FormatSpec.SponsorBlock.MARK
    report = await youtube_harness.fetch(youtube.watch_url("sponsored"), spec)
    told = shown(report.products[0].path)["chapters"]
    sponsor = "[SponsorBlock] Sponsor"
    assert [(c["tags"]["title"], float(c["start_time"])) for c in told] == [
        ("Beginning", 0.0),
        (sponsor, 1.0),
        ("Middle", 2.0),
        (sponsor, 3.5),
        ("End", 4.5),
    ]
    assert length(report) == pytest.approx(6, abs=0.2)


async def test_sponsored_stretches_removed(youtube_harness: Harness, youtube: YouTube) -> None:
    """Removed, they are gone from picture, sound, subtitles and chapters, which fit together as before."""
    spec = FormatSpec(max_height=360, container=MP4, chapters=FormatSpec.EMBED)
    spec.subtitles.CopyFrom(Subtitles(languages=["en"], formats=[Subtitles.JSON]))
    spec.sponsorblock.CopyFrom(
        FormatSpec.SponsorBlock(mode=FormatSpec.SponsorBlock.REMOVE, categories=["sponsor", "intro"])
    )
    report = await youtube_harness.fetch(youtube.watch_url("sponsored"), spec)
    assert length(report) == pytest.approx(3.5, abs=0.2)
    whole, original = report.products[0].path, youtube.file("sponsored", 134)
    # What was at 2.5 s has lost the intro and a sponsor before it; a join is off by a frame at most.
    assert moment_of(picture_at(whole, 1.0), original) == pytest.approx(2.5, abs=0.11)
    assert moment_of(picture_at(whole, 3.0), original) == pytest.approx(5.5, abs=0.11)
    cues = json.loads(report.products[1].path.read_text())
    assert [(cue["start"], cue["end"]) for cue in cues] == [(0.0, 0.5), (1.0, 2.0), (2.0, 3.5)]
    told = shown(whole)["chapters"]
    assert [float(chapter["start_time"]) for chapter in told] == [0.0, 0.5, 2.0]


async def test_sponsored_stretches_out_of_sound(youtube_harness: Harness, youtube: YouTube) -> None:
    """Sound alone loses them as well."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.MP3))
    spec.sponsorblock.mode = FormatSpec.SponsorBlock.REMOVE
    report = await youtube_harness.fetch(youtube.watch_url("sponsored"), spec)
    assert length(report) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("name", ["plain360", "sponsors503"])
async def test_sponsorblock_without_an_answer(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """Where SponsorBlock knows nothing or is down, the video comes whole, with a warning."""
    spec = FormatSpec(max_height=360)
    spec.sponsorblock.mode = FormatSpec.SponsorBlock.REMOVE
    report = await youtube_harness.fetch(youtube.watch_url(name), spec)
    assert length(report) == pytest.approx(6, abs=0.2)
    assert [w.reason for w in report.warnings] == [Warned.SPONSORBLOCK_MISSING]
