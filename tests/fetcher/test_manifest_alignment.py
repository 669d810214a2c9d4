"""Manifests whose streams do not begin together, from the site to the file: flash and beep coincide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from tests.fetcher.conftest import Harness
from tests.sites import synchronized, tools
from tests.sites.media import Media
from tests.sites.site import Site, running_site

from reelhaul.type.v1.media_pb2 import FormatSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SECONDS = 8
_WEBM = FormatSpec(container=FormatSpec.WEBM)
_CLIP = FormatSpec(
    clip=FormatSpec.Clip(start=duration_pb2.Duration(seconds=1), end=duration_pb2.Duration(seconds=7))
)


@dataclass(frozen=True)
class Stream:
    """Segments of a stream: timestamps are *offset* later, the first *skipped* segments are not there."""

    offset: int = 0
    presentation_start: int = 0
    skipped: int = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of segments of 2 s, named by stream, offset and number, as fMP4 and MPEG-TS, and of files."""
    folder = tmp_path_factory.mktemp("separate")
    for kind, codec in (("video", synchronized.H264), ("audio", synchronized.AAC)):
        for offset in (0, 10, 100):
            for suffix, form in (("m4s", "fmp4"), ("ts", "mpegts")):
                stem = f"{kind}-{offset}-{suffix}"
                init = ["-hls_fmp4_init_filename", f"{stem}-init.mp4"] if form == "fmp4" else []
                arguments = [*synchronized.source(kind, _SECONDS), *codec, "-output_ts_offset", str(offset)]
                hls = ["-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", "-hls_segment_type", form]
                names = [*init, "-hls_segment_filename", f"{stem}-%d.{suffix}", f"{stem}.m3u8"]
                tools.run_ffmpeg(*arguments, *hls, *names, folder=folder)
            parts = [f"{kind}-{offset}-m4s-{name}" for name in ("init.mp4", *(f"{n}.m4s" for n in range(4)))]
            whole = b"".join((folder / part).read_bytes() for part in parts)
            (folder / f"{kind}-{offset}.mp4").write_bytes(whole)
    return folder


@pytest.fixture(scope="module")
def separate_site(folder: Path) -> Iterator[Site]:
    """A site with that folder; manifests may be added."""
    media = Media(folder, {f"/{path.name}": "0" * 64 for path in folder.iterdir()})
    with running_site(media=media) as site:
        yield site


def _dash(video: Stream, audio: Stream, form: str) -> str:
    """Return a manifest of *form*: with a timeline, with numbers, or of whole files."""
    sets = ""
    for kind, stream in (("video", video), ("audio", audio)):
        stem, scale = f"{kind}-{stream.offset}-m4s", 1000
        offset = f'timescale="{scale}" presentationTimeOffset="{stream.presentation_start * scale}"'
        if form == "file":
            segments = f"<BaseURL>{kind}-{stream.offset}.mp4</BaseURL><SegmentBase {offset}/>"
        else:
            length, timeline = f'duration="{2 * scale}"', ""
            if form == "timeline":
                first, count = stream.offset + 2 * stream.skipped, 3 - stream.skipped
                entry = f'<S t="{first * scale}" d="{2 * scale}" r="{count}"/>'
                length, timeline = "", f"<SegmentTimeline>{entry}</SegmentTimeline>"
            names = f'initialization="{stem}-init.mp4" media="{stem}-$Number$.m4s"'
            start = f'startNumber="{stream.skipped}"'
            segments = f"<SegmentTemplate {offset} {length} {start} {names}>{timeline}</SegmentTemplate>"
        codec, more = ("avc1.42c01e", 'width="160" height="90"') if kind == "video" else ("mp4a.40.2", "")
        attributes = f'id="{kind}" bandwidth="100000" codecs="{codec}" {more}'
        sets += (
            f'<AdaptationSet mimeType="{kind}/mp4" contentType="{kind}">'
            f"<Representation {attributes}>{segments}</Representation></AdaptationSet>"
        )
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        f'profiles="urn:mpeg:dash:profile:isoff-live:2011" mediaPresentationDuration="PT{_SECONDS}S">'
        f"<Period>{sets}</Period></MPD>"
    )


def _add(site: Site, name: str, text: str) -> str:
    """Add a manifest to *site*; return its URL."""
    (site.media.folder / name).write_text(text)
    site.media.digests[f"/{name}"] = "0" * 64
    return site.url(f"/{name}")


@pytest.mark.parametrize("spec", [FormatSpec(), _WEBM, _CLIP], ids=["whole", "transcoded", "clip"])
@pytest.mark.parametrize(
    ("video", "audio", "form"),
    [
        pytest.param(Stream(10), Stream(10, skipped=1), "timeline", id="audio later"),
        pytest.param(Stream(10, skipped=1), Stream(10), "timeline", id="video later"),
        pytest.param(Stream(10, 10), Stream(100, 100), "timeline", id="presentation time offsets"),
        pytest.param(Stream(10, 10), Stream(100, 100, skipped=1), "timeline", id="offsets, audio later"),
        pytest.param(Stream(0), Stream(0, skipped=1), "numbers", id="first audio segment is not the first"),
        pytest.param(Stream(10, 10), Stream(0), "numbers", id="offset of one stream"),
        pytest.param(Stream(10, 10), Stream(100, 100), "file", id="whole files"),
    ],
)
async def test_dash(
    harness: Harness, separate_site: Site, video: Stream, audio: Stream, form: str, spec: FormatSpec
) -> None:
    """DASH streams play together by presentation time, wherever their timestamps begin."""
    name = f"{abs(hash((video, audio, form)))}.mpd"
    result = await harness.fetch(_add(separate_site, name, _dash(video, audio, form)), spec)
    offsets = synchronized.offsets(result.products[0].path, 2.05)
    assert len(offsets) >= 2
    assert max(map(abs, offsets)) < 0.15, offsets


@pytest.mark.parametrize("spec", [FormatSpec(), _CLIP], ids=["whole", "clip"])
@pytest.mark.parametrize("suffix", ["ts", "m4s"])
@pytest.mark.parametrize("skipped", ["video", "audio", ""])
async def test_hls(
    harness: Harness, separate_site: Site, suffix: str, skipped: str, spec: FormatSpec
) -> None:
    """HLS renditions play together by their timestamps."""
    for kind in ("video", "audio"):
        lines = (separate_site.media.folder / f"{kind}-10-{suffix}.m3u8").read_text().splitlines()
        first = next(n for n, line in enumerate(lines) if line.startswith("#EXTINF"))
        left = lines[:first] + lines[first + 2 * (kind == skipped) :]
        _add(separate_site, f"{kind}{skipped}{suffix}.m3u8", "\n".join([*left, ""]))
    master = (
        '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="en",LANGUAGE="en",DEFAULT=YES,'
        f'URI="audio{skipped}{suffix}.m3u8"\n#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=160x90,'
        f'CODECS="avc1.42c01e,mp4a.40.2",AUDIO="a"\nvideo{skipped}{suffix}.m3u8\n'
    )
    result = await harness.fetch(_add(separate_site, f"master{skipped}{suffix}.m3u8", master), spec)
    offsets = synchronized.offsets(result.products[0].path, 2.05)
    assert len(offsets) >= 2
    assert max(map(abs, offsets)) < 0.15, offsets
