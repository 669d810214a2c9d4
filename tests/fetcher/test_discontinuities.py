"""Discontinuities and sections of HLS, and periods of DASH, are delivered completely and in order.

Each part has a tone of its own, which is expected at its position in the file.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from google.protobuf import duration_pb2
from tests.fetcher.conftest import Harness
from tests.sites import tools
from tests.sites.folder import FolderSite, running_folder_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_TONES = (440, 880, 1320)
_SECONDS = 2
_HEAD = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-PLAYLIST-TYPE:VOD\n"
_END = "#EXT-X-ENDLIST\n"
_BREAK = "#EXT-X-DISCONTINUITY\n"


def _source(tone: int, size: str = "128x72", seconds: float = _SECONDS) -> list[str]:
    inputs = ["-f", "lavfi", "-i", f"testsrc2=s={size}:r=10:d={seconds}"]
    inputs += ["-f", "lavfi", "-i", f"sine=frequency={tone}:sample_rate=44100:d={seconds}"]
    h264 = [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-g",
        "10",
        "-sc_threshold",
        "0",
    ]
    return [*inputs, *h264, "-c:a", "aac", "-b:a", "64k"]


def _hls(stem: str, kind: str = "mpegts", extension: str = "ts") -> list[str]:
    init = ["-hls_fmp4_init_filename", f"{stem}-init.mp4"] if kind == "fmp4" else []
    options = ["-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod", "-hls_segment_type", kind]
    return [*options, *init, "-hls_segment_filename", f"{stem}-%d.{extension}", f"{stem}.m3u8"]


def _create_media(folder: Path) -> None:
    for number, tone in enumerate(_TONES):
        tools.run_ffmpeg(*_source(tone), f"full{number}.mp4", folder=folder)
        copied = ["-i", f"full{number}.mp4", "-c", "copy"]
        tools.run_ffmpeg(*copied, *_hls(f"ts{number}"), folder=folder)
        tools.run_ffmpeg(*copied, *_hls(f"mp4{number}", "fmp4", "m4s"), folder=folder)
        dash = ["-f", "dash", "-seg_duration", "1", "-use_template", "1", "-use_timeline", "0"]
        names = ["-adaptation_sets", "id=0,streams=v id=1,streams=a"]
        names += ["-init_seg_name", f"d{number}-$RepresentationID$-init.m4s"]
        names += ["-media_seg_name", f"d{number}-$RepresentationID$-$Number$.m4s", f"d{number}.mpd"]
        tools.run_ffmpeg(*copied, *dash, *names, folder=folder)
        for stream, name in (("v", "video"), ("a", "audio")):
            alone = [*copied, "-map", f"0:{stream}"]
            tools.run_ffmpeg(*alone, "-movflags", "+faststart", f"{name}{number}.mp4", folder=folder)
            tools.run_ffmpeg(*alone, *_hls(f"{name}{number}", "fmp4", "m4s"), folder=folder)
    tools.run_ffmpeg(*_source(_TONES[1], "96x54"), *_hls("small"), folder=folder)
    ahead = ["-output_ts_offset", "3600"]
    tools.run_ffmpeg("-i", "full1.mp4", "-c", "copy", *ahead, *_hls("ahead"), folder=folder)
    tools.run_ffmpeg("-i", "full1.mp4", "-c:v", "copy", "-ar", "22050", *_hls("rate"), folder=folder)
    tools.run_ffmpeg("-i", "full1.mp4", "-c:v", "copy", "-c:a", "libmp3lame", *_hls("mp3"), folder=folder)
    tools.run_ffmpeg("-i", "full1.mp4", "-c", "copy", "-an", *_hls("mute"), folder=folder)
    for number in range(2):
        raw = ["-i", f"full{number}.mp4", "-vn", "-c", "copy", "-f", "adts", f"packed{number}.aac"]
        tools.run_ffmpeg(*raw, folder=folder)
    tools.run_ffmpeg(*_source(_TONES[0], seconds=4), "long.mp4", folder=folder)
    copied = ["-i", "long.mp4", "-c", "copy"]
    tools.run_ffmpeg(*copied, *_hls("long"), folder=folder)
    tools.run_ffmpeg(*copied, *_hls("longmp4", "fmp4", "m4s"), folder=folder)
    for kind, extension in (("mpegts", "ts"), ("fmp4", "mp4")):
        single = ["-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod", "-hls_flags", "single_file"]
        single += ["-hls_segment_type", kind, "-hls_segment_filename", f"single-{kind}.{extension}"]
        tools.run_ffmpeg(*copied, *single, f"single-{kind}.m3u8", folder=folder)
    (folder / "mp40-again.mp4").write_bytes((folder / "mp40-init.mp4").read_bytes())
    (folder / "longmp4-again.mp4").write_bytes((folder / "longmp4-init.mp4").read_bytes())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderSite]:
    """A site with the parts, whose manifests a test adds."""
    folder = tmp_path_factory.mktemp("parts")
    _create_media(folder)
    with running_folder_site(folder) as site:
        yield site


def _segments(site: FolderSite, stem: str) -> str:
    """Return the lines of all segments of the playlist *stem*."""
    text = (site.folder / f"{stem}.m3u8").read_text()
    return "".join(re.findall(r"#EXTINF:[^\n]*\n(?:#EXT-X-BYTERANGE[^\n]*\n)?[^#\n]+\n", text))


def _map(stem: str) -> str:
    return f'#EXT-X-MAP:URI="{stem}.mp4"\n'


def _master() -> str:
    """Return a master playlist of the playlists video.m3u8 and audio.m3u8."""
    return (
        '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT=YES,URI="audio.m3u8"\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=90000,CODECS="avc1.42c01e,mp4a.40.2",RESOLUTION=128x72,AUDIO="a"\n'
        "video.m3u8\n"
    )


def _tones(path: Path, at: list[float]) -> list[int]:
    """Return the frequency that sounds in *path* at each second of *at*, to the next ten Hz."""
    command = [str(tools.ffmpeg()), "-v", "error", "-i", str(path), "-map", "0:a:0", "-ac", "1"]
    raw = subprocess.run(
        [*command, "-ar", "8000", "-af", "aresample=async=1", "-f", "s16le", "-"],
        check=True,
        capture_output=True,
    ).stdout
    samples = struct.unpack(f"<{len(raw) // 2}h", raw)
    result = []
    for second in at:
        part = samples[round((second - 0.25) * 8000) : round((second + 0.25) * 8000)]
        crossings = sum(a < 0 <= b for a, b in pairwise(part))
        result.append(round(crossings * 2 / 10) * 10)
    return result


_Build = Callable[[FolderSite], str]

#: By name: the playlist, and how many parts of two seconds it has.
_PLAYLISTS: dict[str, tuple[_Build, int]] = {
    "clock begins anew": (lambda s: _segments(s, "ts0") + _BREAK + _segments(s, "ts1"), 2),
    "clock jumps ahead": (lambda s: _segments(s, "ts0") + _BREAK + _segments(s, "ahead"), 2),
    "three parts": (lambda s: _BREAK.join(_segments(s, f"ts{n}") for n in range(3)), 3),
    "the same part again": (
        lambda s: _BREAK.join(_segments(s, f"ts{n}") for n in (0, 1, 0)),
        -3,
    ),
    "two sections": (
        lambda s: (
            _map("mp40-init") + _segments(s, "mp40") + _BREAK + _map("mp41-init") + _segments(s, "mp41")
        ),
        2,
    ),
    "two sections without a discontinuity": (
        lambda s: _map("mp40-init") + _segments(s, "mp40") + _map("mp41-init") + _segments(s, "mp41"),
        2,
    ),
    "one section for two parts": (
        lambda s: _map("mp40-init") + _segments(s, "mp40") + _BREAK + _segments(s, "mp41"),
        2,
    ),
    "the same section at another address": (
        lambda s: (
            _map("mp40-init") + _segments(s, "mp40") + _BREAK + _map("mp40-again") + _segments(s, "mp41")
        ),
        2,
    ),
    "a part with smaller pictures": (lambda s: _segments(s, "ts0") + _BREAK + _segments(s, "small"), 2),
    "a part with another sample rate": (lambda s: _segments(s, "ts0") + _BREAK + _segments(s, "rate"), 2),
    "a part without a section of its own range": (
        lambda s: (
            _map("mp40-init") + _segments(s, "mp40") + _BREAK + _map("mp41-init") + _segments(s, "mp41")
        ).replace('init.mp4"', f'init.mp4",BYTERANGE="{(s.folder / "mp40-init.mp4").stat().st_size}@0"'),
        2,
    ),
    "two keys": (lambda s: _encrypt(s, "ts0", b"k" * 16) + _BREAK + _encrypt(s, "ts1", b"l" * 16), 2),
    "an unmarked clock restart": (lambda s: _segments(s, "ts0") + _segments(s, "ts1"), 2),
    "an unmarked clock jump": (lambda s: _segments(s, "ts0") + _segments(s, "ahead"), 2),
    "a discontinuity before the first segment": (
        lambda s: _BREAK + _segments(s, "ts0") + _BREAK + _segments(s, "ts1"),
        2,
    ),
}


def _encrypt(site: FolderSite, stem: str, key: bytes) -> str:
    """Encrypt the segments of *stem*, each with its number (RFC 8216, 5.2); return their lines."""
    (site.folder / f"{stem}.key").write_bytes(key)
    first = 0 if stem == "ts0" else len(re.findall("#EXTINF", _segments(site, "ts0")))
    for number in range(len(re.findall("#EXTINF", _segments(site, stem)))):
        padder = padding.PKCS7(128).padder()
        plain = padder.update((site.folder / f"{stem}-{number}.ts").read_bytes()) + padder.finalize()
        encryptor = Cipher(algorithms.AES(key), modes.CBC((first + number).to_bytes(16))).encryptor()
        (site.folder / f"secret-{stem}-{number}.ts").write_bytes(
            encryptor.update(plain) + encryptor.finalize()
        )
    lines = re.sub(rf"^{stem}-", f"secret-{stem}-", _segments(site, stem), flags=re.MULTILINE)
    return f'#EXT-X-KEY:METHOD=AES-128,URI="{stem}.key"\n{lines}'


@pytest.mark.parametrize("name", _PLAYLISTS)
async def test_discontinuities(harness: Harness, site: FolderSite, name: str) -> None:
    """All parts of a playlist are delivered in order."""
    build, count = _PLAYLISTS[name]
    tones = [_TONES[0], _TONES[1], _TONES[0]] if count < 0 else list(_TONES[:count])
    site.pages["/list.m3u8"] = f"{_HEAD}{build(site)}{_END}"
    result = await harness.fetch(site.url("/list.m3u8"))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(_SECONDS * len(tones), abs=0.3)
    is_fitted = name in ("a part with smaller pictures", "a part with another sample rate")
    assert [w.reason for w in result.warnings] == [MediaWarning.TRANSCODED] * is_fitted
    places = [_SECONDS * number + 1.0 for number in range(len(tones))]
    assert _tones(path, places) == pytest.approx(tones, abs=25)


async def test_discontinuities_of_separate_streams(harness: Harness, site: FolderSite) -> None:
    """Video and audio that are separate playlists stay together over a discontinuity."""
    for name in ("video", "audio"):
        body = _BREAK.join(_map(f"{name}{n}-init") + _segments(site, f"{name}{n}") for n in range(3))
        site.pages[f"/{name}.m3u8"] = f"{_HEAD}{body}{_END}"
    site.pages["/master.m3u8"] = _master()
    result = await harness.fetch(site.url("/master.m3u8"))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(6, abs=0.3)
    assert _tones(path, [1, 3, 5]) == pytest.approx(list(_TONES), abs=25)
    assert not result.delivered.transcoded


@pytest.mark.parametrize("second", ["mp3", "mute"])
async def test_incompatible_parts(harness: Harness, site: FolderSite, second: str) -> None:
    """Parts in other codecs, or without audio, are refused with that reason: no file can hold them."""
    site.pages["/list.m3u8"] = f"{_HEAD}{_segments(site, 'ts0')}{_BREAK}{_segments(site, second)}{_END}"
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/list.m3u8"))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
    assert "h264/aac" in failure.value.text
    assert not failure.value.retryable


async def test_audio_parts(harness: Harness, site: FolderSite) -> None:
    """Parts of sound alone are joined as well, from segments without any clock."""
    body = _BREAK.join(f"#EXTINF:2.0,\npacked{number}.aac\n" for number in range(2))
    site.pages["/list.m3u8"] = f"{_HEAD}{body}{_END}"
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=FormatSpec.Audio(format=FormatSpec.Audio.MP3))
    result = await harness.fetch(site.url("/list.m3u8"), spec)
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(4, abs=0.3)
    assert _tones(path, [1, 3]) == pytest.approx(list(_TONES[:2]), abs=25)


async def test_discontinuity_of_one_stream(harness: Harness, site: FolderSite) -> None:
    """A discontinuity in one of two streams only leaves both complete."""
    video = _BREAK.join(_map(f"video{n}-init") + _segments(site, f"video{n}") for n in range(2))
    site.pages["/video.m3u8"] = f"{_HEAD}{video}{_END}"
    site.pages["/audio.m3u8"] = f"{_HEAD}{_segments(site, 'long')}{_END}"
    site.pages["/master.m3u8"] = _master()
    result = await harness.fetch(site.url("/master.m3u8"))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(4, abs=0.3)
    assert _tones(path, [1, 3]) == pytest.approx([_TONES[0]] * 2, abs=25)


async def test_unmarked_restart_of_one_stream(harness: Harness, site: FolderSite) -> None:
    """Streams that are joined one after another, each from its own parts, do not replace each other."""
    site.pages["/video.m3u8"] = f"{_HEAD}{_segments(site, 'ts0')}{_segments(site, 'ts1')}{_END}"
    audio = _BREAK.join(_map(f"audio{n}-init") + _segments(site, f"audio{n}") for n in range(2))
    site.pages["/audio.m3u8"] = f"{_HEAD}{audio}{_END}"
    site.pages["/master.m3u8"] = _master()
    result = await harness.fetch(site.url("/master.m3u8"))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(4, abs=0.3)
    assert _tones(path, [1, 3]) == pytest.approx(list(_TONES[:2]), abs=25)


async def test_continuous_clock(harness: Harness, site: FolderSite) -> None:
    """A discontinuity after which the clock goes on adds and removes nothing."""
    segments = re.findall(r"#EXTINF[^\n]*\n[^\n]+\n", _segments(site, "long"))
    site.pages["/list.m3u8"] = f"{_HEAD}{_BREAK.join(segments)}{_END}"
    result = await harness.fetch(site.url("/list.m3u8"))
    path = result.products[0].path
    assert len(segments) == 4
    assert tools.probe(path).duration == pytest.approx(4, abs=0.12)
    assert _tones(path, [0.5, 1, 2, 3, 3.5]) == pytest.approx([_TONES[0]] * 5, abs=25)


async def test_repeated_section(harness: Harness, site: FolderSite) -> None:
    """An initialization section that comes again under another name changes nothing."""
    segments = re.findall(r"#EXTINF[^\n]*\n[^\n]+\n", _segments(site, "longmp4"))
    body = _map("longmp4-init") + "".join(segments[:2]) + _map("longmp4-again") + "".join(segments[2:])
    site.pages["/list.m3u8"] = f"{_HEAD}{body}{_END}"
    result = await harness.fetch(site.url("/list.m3u8"))
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)
    assert not result.warnings


@pytest.mark.parametrize("kind", ["mpegts", "fmp4"])
@pytest.mark.parametrize("implied", [False, True])
async def test_byte_ranges(harness: Harness, site: FolderSite, kind: str, *, implied: bool) -> None:
    """Segments that are ranges of one file come whole, also where only the lengths of ranges are given."""
    text = (site.folder / f"single-{kind}.m3u8").read_text()
    if implied:
        first, *others = re.split(r"(?=#EXT-X-BYTERANGE)", text)
        others = [others[0], *(re.sub(r"@\d+", "", other) for other in others[1:])]
        text = first + "".join(others)
    assert "#EXT-X-BYTERANGE" in text
    site.pages["/list.m3u8"] = text
    result = await harness.fetch(site.url("/list.m3u8"))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(4, abs=0.15)
    assert _tones(path, [1, 3.5]) == pytest.approx([_TONES[0]] * 2, abs=25)


@pytest.mark.parametrize("second", ["ts1", "ahead"])
async def test_appended_files(harness: Harness, site: FolderSite, second: str) -> None:
    """A file of two recordings, one appended to the other, comes whole, and a clip counts on all of it."""
    names = [f"{stem}-{n}.ts" for stem in ("ts0", second) for n in range(2)]
    (site.folder / "both.ts").write_bytes(b"".join((site.folder / name).read_bytes() for name in names))
    result = await harness.fetch(site.url("/both.ts"))
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.3)
    assert _tones(result.products[0].path, [1, 3]) == pytest.approx(list(_TONES[:2]), abs=25)
    clip = FormatSpec.Clip(start=_duration(2.5), end=_duration(3.5))
    result = await harness.fetch(site.url("/both.ts"), FormatSpec(clip=clip))
    assert tools.probe(result.products[0].path).duration == pytest.approx(1, abs=0.15)


async def test_server_without_ranges(harness: Harness, site: FolderSite) -> None:
    """Segments that are ranges are cut out of the whole file if the server knows no ranges."""
    site.without_ranges.add("/single-mpegts.ts")
    try:
        result = await harness.fetch(site.url("/single-mpegts.m3u8"))
    finally:
        site.without_ranges.clear()
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)
    assert _tones(result.products[0].path, [1, 3.5]) == pytest.approx([_TONES[0]] * 2, abs=25)


@pytest.mark.parametrize("play_time", ["", "long", "-1", "NaN"])
async def test_invalid_play_time(harness: Harness, site: FolderSite, play_time: str) -> None:
    """Segments with invalid play times are received without a check of the duration."""
    body = re.sub(r"#EXTINF:[^,]+", f"#EXTINF:{play_time}", _segments(site, "long"))
    site.pages["/list.m3u8"] = f"{_HEAD}{body}{_END}"
    result = await harness.fetch(site.url("/list.m3u8"))
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize("stated", ["PT2S", "PT3S", "PT20S", "PT6000S"])
async def test_clip_with_wrong_page_duration(harness: Harness, site: FolderSite, stated: str) -> None:
    """Whether a clip is within the media is checked by the media, not by the page."""
    data = {"@context": "https://schema.org", "@type": "VideoObject", "name": "A film", "duration": stated}
    content = json.dumps({**data, "contentUrl": site.url("/long.mp4")})
    site.pages["/page.html"] = f'<script type="application/ld+json">{content}</script>'
    clip = FormatSpec.Clip(start=_duration(2.5), end=_duration(3.5))
    result = await harness.fetch(site.url("/page.html"), FormatSpec(clip=clip))
    assert tools.probe(result.products[0].path).duration == pytest.approx(1, abs=0.15)


async def test_clip_over_a_discontinuity(harness: Harness, site: FolderSite) -> None:
    """A clip counts on the clock of the whole, not on that of a part."""
    site.pages["/list.m3u8"] = f"{_HEAD}{_segments(site, 'ts0')}{_BREAK}{_segments(site, 'ts1')}{_END}"
    clip = FormatSpec.Clip(start=_duration(2.5), end=_duration(3.5))
    result = await harness.fetch(site.url("/list.m3u8"), FormatSpec(clip=clip))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(1, abs=0.15)
    assert _tones(path, [0.5]) == pytest.approx([_TONES[1]], abs=25)


async def test_clip_after_the_end(harness: Harness, site: FolderSite) -> None:
    """A clip that starts after the last segment is refused, and no segment is requested."""
    site.pages["/list.m3u8"] = f"{_HEAD}{_segments(site, 'long')}{_END}"
    site.pages["/page.html"] = '<video><source src="/list.m3u8" type="application/x-mpegURL"></video>'
    before = site.count("/long-0.ts")
    for path in ("/list.m3u8", "/page.html"):
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(site.url(path), FormatSpec(clip=FormatSpec.Clip(start=_duration(60))))
        assert failure.value.reason == ErrorReason.CLIP_OUT_OF_RANGE
    assert site.count("/long-0.ts") == before


@pytest.mark.parametrize(("play_time", "warns"), [("1", False), ("2", True), ("1.04", False)])
async def test_rounded_play_time(harness: Harness, site: FolderSite, play_time: str, *, warns: bool) -> None:
    """Play times of segments that are rounded, up or down, cost no file."""
    body = re.sub(r"#EXTINF:[^,]+", f"#EXTINF:{play_time}", _segments(site, "long"))
    site.pages["/list.m3u8"] = f"{_HEAD}{body}{_END}"
    result = await harness.fetch(site.url("/list.m3u8"))
    assert [w.reason for w in result.warnings] == [MediaWarning.DURATION_DIFFERS] * warns
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize("play_time", ["3.5", "10", "10.000", "0.4"])
async def test_wrong_play_time(harness: Harness, site: FolderSite, play_time: str) -> None:
    """If all segments were received and play, a wrong play time in the playlist is a warning."""
    body = re.sub(r"#EXTINF:[^,]+", f"#EXTINF:{play_time}", _segments(site, "long"))
    site.pages["/list.m3u8"] = f"{_HEAD}{body}{_END}"
    result = await harness.fetch(site.url("/list.m3u8"))
    assert [w.reason for w in result.warnings] == [MediaWarning.DURATION_DIFFERS]
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize("stem", ["long", "longmp4"])
@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Sign in</title>", b"\0" * 5000])
async def test_invalid_segment(harness: Harness, site: FolderSite, stem: str, content: bytes) -> None:
    """A segment that is empty, a page or nothing known fails the download: the file would have a gap."""
    (site.folder / "broken.ts").write_bytes(content)
    segments = re.findall(r"#EXTINF[^\n]*\n[^\n]+\n", _segments(site, stem))
    segments[2] = "#EXTINF:1.0,\nbroken.ts\n"
    head = _map("longmp4-init") if stem == "longmp4" else ""
    site.pages["/list.m3u8"] = f"{_HEAD}{head}{''.join(segments)}{_END}"
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/list.m3u8"))
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
    assert re.search(r"segment( [34])? is (empty|not media)", failure.value.text)


async def test_clock_restart_within_a_section(harness: Harness, site: FolderSite) -> None:
    """Fragments that would play over each other are never delivered as half of the media."""
    body = _map("mp40-init") + _segments(site, "mp40") + _segments(site, "mp41")
    site.pages["/list.m3u8"] = f"{_HEAD}{body}{_END}"
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/list.m3u8"))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


@pytest.mark.parametrize(
    ("head", "end", "reason"),
    [
        (_HEAD, "", None),
        (_HEAD.replace(":VOD", ":EVENT"), "", ErrorReason.MEDIA_IS_LIVE),
        (_HEAD.replace("#EXT-X-PLAYLIST-TYPE:VOD\n", ""), "", ErrorReason.MEDIA_IS_LIVE),
        (_HEAD.replace("#EXT-X-PLAYLIST-TYPE:VOD\n", ""), _END, None),
        (_HEAD.replace(":VOD", ":EVENT"), _END, None),
        (f'{_HEAD}#EXT-X-KEY:METHOD=SAMPLE-AES,URI="key"\n', _END, ErrorReason.FORMAT_UNAVAILABLE),
    ],
)
async def test_unfinished_playlist(
    harness: Harness, site: FolderSite, head: str, end: str, reason: ErrorReason.ValueType | None
) -> None:
    """A playlist without an end is whole if it says that it does not change; others are refused."""
    site.pages["/list.m3u8"] = f"{head}{_segments(site, 'long')}{end}"
    site.pages["/page.html"] = '<video><source src="/list.m3u8" type="application/x-mpegURL"></video>'
    before = site.count("/long-0.ts")
    for path in ("/page.html", "/list.m3u8"):
        if reason is None:
            result = await harness.fetch(site.url(path))
            assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)
            continue
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(site.url(path))
        assert failure.value.reason == reason
    if reason is None:
        return
    assert site.count("/long-0.ts") == before


@pytest.mark.parametrize("page", ["/page.html", "/list.m3u8"])
async def test_recording_of_complete_playlist(harness: Harness, site: FolderSite, page: str) -> None:
    """A request to record receives a playlist that does not change at once, whole."""
    site.pages["/list.m3u8"] = f"{_HEAD}{_segments(site, 'long')}"
    site.pages["/page.html"] = '<video><source src="/list.m3u8" type="application/x-mpegURL"></video>'
    spec = FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.RECORD))
    result = await harness.fetch(site.url(page), spec)
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.15)
    assert not result.warnings


async def test_recording_of_encrypted_segments(harness: Harness, site: FolderSite) -> None:
    """An encrypted playlist that may continue is refused for what it is: it cannot be recorded."""
    body = f'#EXT-X-KEY:METHOD=AES-128,URI="key"\n{_segments(site, "long")}'
    site.pages["/list.m3u8"] = _HEAD.replace(":VOD", ":EVENT") + body
    site.pages["/page.html"] = '<video><source src="/list.m3u8" type="application/x-mpegURL"></video>'
    spec = FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.RECORD))
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/page.html"), spec)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
    assert "cannot be recorded" in failure.value.text


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


# DASH

_LASTING = ' duration="PT2S"'
_MPD = '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"{}>{}</MPD>'


def _period(number: int, attributes: str = "", bandwidth: int = 90_000, ids: str = "va") -> str:
    """Return a period with the segments of part *number*."""
    sets = ""
    for index, (kind, codec) in enumerate((("video", "avc1.42c00b"), ("audio", "mp4a.40.2"))):
        template = (
            f'<SegmentTemplate timescale="1" duration="1" startNumber="1" '
            f'initialization="d{number}-{index}-init.m4s" media="d{number}-{index}-$Number$.m4s"/>'
        )
        size = ' width="128" height="72"' if kind == "video" else ""
        sets += (
            f'<AdaptationSet mimeType="{kind}/mp4"><Representation id="{ids[index]}" codecs="{codec}" '
            f'bandwidth="{bandwidth + index}"{size}>{template}</Representation></AdaptationSet>'
        )
    return f"<Period{attributes}>{sets}</Period>"


def _file_period(number: int) -> str:
    """Return a period whose representations are whole files."""
    sets = ""
    for kind, codec in (("video", "avc1.42c00b"), ("audio", "mp4a.40.2")):
        base = f"<BaseURL>{kind}{number}.mp4</BaseURL><SegmentBase/>"
        sets += (
            f'<AdaptationSet mimeType="{kind}/mp4"><Representation id="{kind}" codecs="{codec}" '
            f'bandwidth="90000">{base}</Representation></AdaptationSet>'
        )
    return f'<Period duration="PT2S">{sets}</Period>'


def _timeline_period(number: int) -> str:
    """Return a period whose segments have a timeline with an open end."""
    timeline = '<SegmentTimeline><S t="0" d="1" r="-1"/></SegmentTimeline></SegmentTemplate>'
    return re.sub(r' duration="1"( [^>]*)/>', rf"\1>{timeline}", _period(number, _LASTING))


def _ranges_period(number: int) -> str:
    """Return a period whose segments are byte ranges of one file for each stream."""
    sets = ""
    for kind, codec in (("video", "avc1.42c00b"), ("audio", "mp4a.40.2")):
        sets += (
            f'<AdaptationSet mimeType="{kind}/mp4"><Representation id="{kind}" codecs="{codec}" '
            f'bandwidth="90000"><BaseURL>{kind}{number}.bin</BaseURL><SegmentList duration="1">'
            f"RANGES-{kind}{number}</SegmentList></Representation></AdaptationSet>"
        )
    return f"<Period{_LASTING}>{sets}</Period>"


def _write_ranges(site: FolderSite, manifest: str) -> str:
    """Write the files of *manifest* that are read in ranges; return it with the ranges."""

    def write(match: re.Match[str]) -> str:
        stem, elements, position = match[1], "", 0
        names = [f"{stem}-init.mp4", *sorted(file.name for file in site.folder.glob(f"{stem}-*.m4s"))]
        with (site.folder / f"{stem}.bin").open("wb") as file:
            for name in names:
                content = (site.folder / name).read_bytes()
                bounds = f"{position}-{position + len(content) - 1}"
                element = '<SegmentURL mediaRange="{}"/>' if position else '<Initialization range="{}"/>'
                elements, position = elements + element.format(bounds), position + file.write(content)
        return elements

    return re.sub(r"RANGES-(\w+)", write, manifest)


_TOTAL_4, _TOTAL_6 = (f' mediaPresentationDuration="PT{seconds}S"' for seconds in (4, 6))
_MANIFESTS: dict[str, tuple[str, int]] = {
    "with durations": (_MPD.format(_TOTAL_4, "".join(_period(n, _LASTING) for n in (0, 1))), 2),
    "with starts alone": (
        _MPD.format(_TOTAL_4, _period(0, ' start="PT0S"') + _period(1, ' start="PT2S"')),
        2,
    ),
    "with other bandwidths": (
        _MPD.format(_TOTAL_6, "".join(_period(n, _LASTING, bandwidth=80_000 + 9_000 * n) for n in range(3))),
        3,
    ),
    "with other ids": (
        _MPD.format(_TOTAL_4, _period(0, _LASTING) + _period(1, _LASTING, ids="xy")),
        2,
    ),
    "without a presentation duration": (
        _MPD.format("", "".join(_period(n, _LASTING) for n in (0, 1))),
        2,
    ),
    "of whole files": (_MPD.format(_TOTAL_6, "".join(map(_file_period, range(3)))), 3),
    "with open timelines": (_MPD.format(_TOTAL_4, "".join(map(_timeline_period, range(2)))), 2),
    "with byte ranges": (_MPD.format(_TOTAL_4, "".join(map(_ranges_period, range(2)))), 2),
    "one with byte ranges": (_MPD.format(' mediaPresentationDuration="PT2S"', _ranges_period(0)), 1),
    "with an empty one": (
        _MPD.format(_TOTAL_4, _period(0, _LASTING) + '<Period duration="PT0S"/>' + _period(1, _LASTING)),
        2,
    ),
}


async def test_audio_of_periods(harness: Harness, site: FolderSite) -> None:
    """The sound alone comes from all periods too."""
    site.pages["/manifest.mpd"] = _MPD.format(_TOTAL_6, "".join(_period(n, _LASTING) for n in range(3)))
    result = await harness.fetch(site.url("/manifest.mpd"), FormatSpec(media_kind=FormatSpec.AUDIO))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(6, abs=0.3)
    assert _tones(path, [1, 3, 5]) == pytest.approx(list(_TONES), abs=25)


@pytest.mark.parametrize("name", _MANIFESTS)
async def test_periods(harness: Harness, site: FolderSite, name: str) -> None:
    """All periods of a manifest are delivered in order."""
    manifest, count = _MANIFESTS[name]
    site.pages["/manifest.mpd"] = _write_ranges(site, manifest)
    result = await harness.fetch(site.url("/manifest.mpd"))
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(_SECONDS * count, abs=0.3)
    assert set(tools.probe(path).codecs) == {"video", "audio"}
    assert _tones(path, [2.0 * n + 1 for n in range(count)]) == pytest.approx(list(_TONES[:count]), abs=25)


async def test_clip_after_the_end_of_a_manifest(harness: Harness, site: FolderSite) -> None:
    """The duration that a manifest declares is checked before the download."""
    site.pages["/manifest.mpd"] = _MANIFESTS["with starts alone"][0]
    assert (await harness.probe(site.url("/manifest.mpd"))).duration.seconds == 4
    before = site.count("/d0-0-1.m4s")
    clip = FormatSpec.Clip(start=_duration(60))
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/manifest.mpd"), FormatSpec(clip=clip))
    assert failure.value.reason == ErrorReason.CLIP_OUT_OF_RANGE
    assert site.count("/d0-0-1.m4s") == before


async def test_large_files_of_periods(harness: Harness, site: FolderSite) -> None:
    """Whole files are received in ranges, so that no file must fit into memory."""
    padding_box = (20_000_000).to_bytes(4) + b"free" + bytes(19_999_992)
    for number in range(2):
        name = f"video{number}.mp4"
        (site.folder / f"large-{name}").write_bytes((site.folder / name).read_bytes() + padding_box)
    manifest = _MPD.format(_TOTAL_4, "".join(map(_file_period, range(2)))).replace(">video", ">large-video")
    site.pages["/manifest.mpd"] = manifest
    result = await harness.fetch(site.url("/manifest.mpd"))
    assert tools.probe(result.products[0].path).duration == pytest.approx(4, abs=0.3)
    assert site.count("/large-video1.mp4") == 3


@pytest.mark.parametrize("page", ["/manifest.mpd", "/page.html"])
async def test_dynamic_manifest(harness: Harness, site: FolderSite, page: str) -> None:
    """A manifest that may grow is not taken for the whole."""
    site.pages["/manifest.mpd"] = _MPD.format("", _period(0, _LASTING)).replace("static", "dynamic")
    site.pages["/page.html"] = '<video><source src="/manifest.mpd" type="application/dash+xml"></video>'
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url(page))
    assert failure.value.reason == ErrorReason.MEDIA_IS_LIVE


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        (
            _MPD.format(
                _TOTAL_4,
                _period(0, _LASTING) + _period(1, _LASTING).replace("avc1.42c00b", "hev1.1"),
            ),
            "period 2",
        ),
        (_MPD.format(_TOTAL_4, _period(0, _LASTING) + '<Period duration="PT2S"/>'), "period 2"),
        (
            _MPD.format(' mediaPresentationDuration="PT60S"', _period(0, _LASTING)),
            "the manifest declares 60.0 s",
        ),
    ],
)
async def test_incomplete_manifest(harness: Harness, site: FolderSite, manifest: str, text: str) -> None:
    """A manifest whose periods do not fit together is refused with a reason, before any segment."""
    site.pages["/manifest.mpd"] = manifest
    before = site.count("/d0-0-1.m4s")
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/manifest.mpd"))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
    assert text in failure.value.text
    assert site.count("/d0-0-1.m4s") == before
