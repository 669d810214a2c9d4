"""Extras never fail the video: subtitles, thumbnails and chapters as sites send them."""

from __future__ import annotations

import html
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.fetcher.conftest import Harness
from tests.fetcher.guard_harness import PUBLIC, Site, running_site
from tests.sites import tools

from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model.engine_requests import FetchResult
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Subtitles = FormatSpec.Subtitles
MP4, WEBM, MKV = FormatSpec.MP4, FormatSpec.WEBM, FormatSpec.MKV
SECONDS = 3


class SmallSite:
    """A site whose pages a test chooses, with one small video."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.origin = f"http://{PUBLIC}:{site.port}"

    def add(self, path: str, body: str | bytes, kind: str = "text/html", status: str = "200 OK") -> None:
        """Answer *path* with *body*."""
        content = body.encode() if isinstance(body, str) else body
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
        self.site.responses[path] = head.encode() + content

    def add_page(self, path: str, tracks: str = "", head: str = "") -> str:
        """Add a page with the video and *tracks*; return its URL."""
        video = f'<video><source src="/v.mp4" type="video/mp4">{tracks}</video>'
        self.add(path, f"<html><head><title>A title</title>{head}</head><body>{video}</body></html>")
        return self.origin + path

    def add_track(
        self, name: str, content: str | bytes, kind: str = "text/vtt", status: str = "200 OK"
    ) -> str:
        """Add a page whose English subtitles are *content*; return its URL."""
        self.add(f"/{name}", content, kind, status)
        return self.add_page(f"/{name}.html", f'<track kind="subtitles" srclang="en" src="/{name}">')

    def add_video_object(self, path: str, **fields: Any) -> str:
        """Add a page that describes its video with *fields* of schema.org; return its URL."""
        video = {"@context": "https://schema.org", "@type": "VideoObject", "name": "A title", **fields}
        video["contentUrl"] = f"{self.origin}/v.mp4"
        self.add(path, f'<html><script type="application/ld+json">{json.dumps(video)}</script></html>')
        return self.origin + path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of three seconds with sound."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    sources = [f"testsrc2=s=160x90:r=10:d={SECONDS}", f"sine=d={SECONDS}"]
    inputs = [word for source in sources for word in ("-f", "lavfi", "-i", source)]
    encoders = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "5", "-c:a", "aac"]
    tools.run_ffmpeg(*inputs, *encoders, "-movflags", "+faststart", str(path))
    return path.read_bytes()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def small_site(video: bytes) -> AsyncIterator[SmallSite]:
    """A site with the video at /v.mp4."""
    async with running_site() as site:
        small = SmallSite(site)
        small.add("/v.mp4", video, "video/mp4")
        yield small


def probe(path: Path) -> dict[str, Any]:
    """Return ffprobe's output for *path*."""
    command = [str(tools.ffprobe()), "-v", "error", "-show_streams", "-show_format", "-show_chapters"]
    completed = subprocess.run([*command, "-of", "json", str(path)], check=True, capture_output=True)
    output: dict[str, Any] = json.loads(completed.stdout)
    return output


def embedded_text(path: Path) -> str:
    """Return the subtitles in *path* as WebVTT."""
    command = [str(tools.ffmpeg()), "-v", "error", "-i", str(path), "-map", "0:s:0", "-f", "webvtt", "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def products(result: FetchResult, kind: ArtifactInfo.Kind.ValueType) -> list[Path]:
    """Return the files of *kind*."""
    return [product.path for product in result.products if product.info.kind == kind]


def reasons(result: FetchResult) -> list[int]:
    """Return the reasons of the warnings."""
    return [warning.reason for warning in result.warnings]


GOOD = "00:00:00.500 --> 00:00:01.500\nfirst\n\n"
ODD_CUES = [
    ("far", GOOD + "66:00:00.000 --> 66:00:02.000\nfar away\n", True),
    ("clock", GOOD + "100:00:00.000 --> 100:00:02.000\nclock\n", True),
    ("backwards", GOOD + "00:00:02.000 --> 00:00:01.000\nbackwards\n", True),
    ("long", GOOD + "00:00:02.000 --> 00:00:20.000\nstays on\n", True),
    ("order", "00:00:02.000 --> 00:00:02.500\nlater\n\n" + GOOD, False),
    ("none", GOOD + "00:00:02.000 --> 00:00:02.000\nno length\n", False),
    ("map", "X-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n\n" + GOOD, False),
    ("twice", GOOD + GOOD, False),
]


@pytest.mark.parametrize("container", [MP4, MKV])
@pytest.mark.parametrize(("name", "text", "is_corrected"), ODD_CUES, ids=[name for name, *_ in ODD_CUES])
async def test_cues_at_invalid_times(
    harness: Harness,
    small_site: SmallSite,
    name: str,
    text: str,
    is_corrected: bool,
    container: FormatSpec.Container.ValueType,
) -> None:
    """Embedded subtitles never change the length of the video, and no cue lasts no time."""
    header = "WEBVTT\n" if name == "map" else "WEBVTT\n\n"
    url = small_site.add_track(f"{name}.vtt", header + text)
    spec = FormatSpec(container=container, subtitles=Subtitles(languages=["en"], embed=True))
    result = await harness.fetch(url, spec)
    (path,) = products(result, ArtifactInfo.VIDEO)
    assert float(probe(path)["format"]["duration"]) == pytest.approx(SECONDS, abs=0.2)
    for written in (embedded_text(path), products(result, ArtifactInfo.SUBTITLE)[0].read_text()):
        times = re.findall(r"([\d:.,]+) --> ([\d:.,]+)", written)
        assert times
        assert all(start < end for start, end in times)
        assert "first" in written
    assert reasons(result) == ([Warned.TIMES_CORRECTED] if is_corrected else [])


@pytest.mark.parametrize("container", [MP4, MKV, WEBM])
async def test_markup_in_the_container(
    harness: Harness, small_site: SmallSite, container: FormatSpec.Container.ValueType
) -> None:
    """Angle brackets, ampersands and braces of a text are in the embedded subtitles too."""
    line = "a &lt;b&gt; &amp; I &lt;3 {x} {\\an8}Größe 日本語"
    url = small_site.add_track("words.vtt", f"WEBVTT\n\n00:01.000 --> 00:02.000\n{line}\n")
    spec = FormatSpec(container=container, subtitles=Subtitles(languages=["en"], embed=True))
    result = await harness.fetch(url, spec)
    (path,) = products(result, ArtifactInfo.VIDEO)
    shown = "a <b> & I <3 {x} Größe 日本語"
    # As they are stored; MP4 has other braces.
    stored = path.read_bytes().decode("utf-8", "ignore").translate(str.maketrans("｛｝", "{}"))
    assert shown in stored or html.escape(shown, quote=False) in stored
    assert shown in products(result, ArtifactInfo.SUBTITLE)[0].read_text()


TTML = '<tt xmlns="http://www.w3.org/ns/ttml"><body><div><p begin="1s" end="2s">Größe</p></div></body></tt>'
CUE = "00:00:01.000 --> 00:00:02.000\nGröße\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.vtt", f"WEBVTT\n\n{CUE}".encode("utf-16"), "text/vtt"),
        ("b.vtt", f"WEBVTT\n\n{CUE}".encode("cp1252"), "text/vtt; charset=windows-1252"),
        ("c.srt", f"1\n{CUE}".replace(".", ",").encode("cp1252"), "application/x-subrip"),
        ("d.ttml", TTML.encode(), "application/ttml+xml"),
        ("e.xml", TTML.encode("utf-16"), "text/xml"),
        ("f.ass", b"[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,,,,,,,Gr\xc3\xb6\xc3\x9fe", "text/x-ssa"),
        ("g.smi", "<SAMI><BODY><SYNC Start=1000>Größe<SYNC Start=2000>".encode("cp1252"), "text/plain"),
        ("h", f"WEBVTT\n\n{CUE}".encode(), "application/octet-stream"),
        ("i.php", f"1\n{CUE}".encode(), "text/html; charset=iso-8859-1"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 9 else "",
)
async def test_files_of_a_site(
    harness: Harness, small_site: SmallSite, name: str, content: bytes, kind: str
) -> None:
    """Subtitles of each format and charset become clean SubRip."""
    url = small_site.add_track(name, content, kind)
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    (product,) = (await harness.fetch(url, spec)).products
    assert product.path.read_text(encoding="utf-8") == "1\n00:00:01,000 --> 00:00:02,000\nGröße\n\n"


@pytest.mark.parametrize(
    ("name", "content", "status", "problem"),
    [
        ("page", "<!doctype html><html>", "200 OK", "a page"),
        ("gone", "", "404 Not Found", "404"),
        ("binary", bytes(range(256)) * 9, "200 OK", "no known format"),
        ("empty", "", "200 OK", "no known format"),
        ("xml", "<tt><p>", "200 OK", "not well-formed"),
        ("sub", "{1}{20}text", "200 OK", "json3"),
        ("large", "WEBVTT\n\n" + "x" * 17_000_000, "200 OK", "could not be downloaded"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 9 else "",
)
async def test_unreadable_files(
    harness: Harness, small_site: SmallSite, name: str, content: str | bytes, status: str, problem: str
) -> None:
    """Subtitles that cannot be read are a warning that says why, and the video comes."""
    url = small_site.add_track(f"{name}.vtt", content, status=status)
    spec = FormatSpec(subtitles=Subtitles(languages=["en"], embed=True))
    result = await harness.fetch(url, spec)
    (warning,) = result.warnings
    assert (warning.reason, warning.language_code) == (Warned.SUBTITLES_MISSING, "en")
    assert problem in warning.message
    assert products(result, ArtifactInfo.VIDEO)


SEGMENT = "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{}\n\n00:00:01.000 --> 00:00:02.000\n{}\n"


async def test_nonstandard_segments(harness: Harness, small_site: SmallSite) -> None:
    """Segments of subtitles that are not quite WebVTT are read, on one clock."""
    media = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n{}#EXT-X-ENDLIST\n"
    master = (
        '#EXTM3U\n#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",LANGUAGE="en",NAME="English",URI="subs.m3u8"\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=100000,SUBTITLES="s",CODECS="avc1.42e00a,mp4a.40.2"\nvideo.m3u8\n'
    )
    playlists = {"/master.m3u8": master, "/video.m3u8": media.format("#EXTINF:6,\nv.ts\n")}
    playlists["/subs.m3u8"] = media.format("#EXTINF:6,\ns1.vtt\n#EXTINF:6,\ns2.vtt\n")
    for path, text in playlists.items():
        small_site.add(path, text, "application/vnd.apple.mpegurl")
    small_site.add("/s1.vtt", SEGMENT.format(900_000, "one") + "\n0:1 --> nonsense\n\nstray\n", "text/vtt")
    small_site.add("/s2.vtt", SEGMENT.format(1_440_000, "Größe").encode("cp1252"), "text/vtt")
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    (product,) = (await harness.fetch(f"{small_site.origin}/master.m3u8", spec)).products
    text = product.path.read_text()
    assert "00:00:01,000 --> 00:00:02,000\none" in text
    assert "00:00:07,000 --> 00:00:08,000\nGr" in text


MPD = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT3S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="v"
bandwidth="100000" codecs="avc1.42e00a"><BaseURL>/v.mp4</BaseURL></Representation></AdaptationSet>
<AdaptationSet lang="en" {attributes}><Representation id="t" bandwidth="100">{location}</Representation>
</AdaptationSet></Period></MPD>"""
SEGMENTS = (
    '<SegmentList duration="2"><Initialization sourceURL="/t0.mp4"/><SegmentURL media="/t1.mp4"/>'
    '<SegmentURL media="/t2.mp4"/></SegmentList>'
)


@pytest.mark.parametrize(
    ("name", "attributes", "location"),
    [
        ("stpp", 'contentType="text" mimeType="application/mp4" codecs="stpp.ttml.im1t"', SEGMENTS),
        ("vtt", 'mimeType="text/vtt"', "<BaseURL>/dash.vtt</BaseURL>"),
        ("ttml", 'mimeType="application/ttml+xml"', "<BaseURL>/dash.ttml</BaseURL>"),
    ],
)
async def test_subtitles_of_dash(
    harness: Harness, small_site: SmallSite, name: str, attributes: str, location: str
) -> None:
    """Subtitles of a DASH manifest are read, as a file or as segments of MP4."""
    first, second = TTML, TTML.replace("2s", "3s").replace("1s", "2s")
    small_site.add("/t0.mp4", b"\0\0\0\x10ftypiso6\0\0\0\0", "application/mp4")
    for number, document in enumerate((first, second), 1):
        body = document.encode()
        head = b"\0\0\0\x08moof" + (len(body) + 8).to_bytes(4, "big")
        small_site.add(f"/t{number}.mp4", head + b"mdat" + body, "application/mp4")
    small_site.add("/dash.ttml", TTML, "application/ttml+xml")
    small_site.add("/dash.vtt", f"WEBVTT\n\n{CUE}", "text/vtt")
    small_site.add(
        f"/{name}.mpd", MPD.format(attributes=attributes, location=location), "application/dash+xml"
    )
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    (product,) = (await harness.fetch(f"{small_site.origin}/{name}.mpd", spec)).products
    text = product.path.read_text(encoding="utf-8")
    assert text.startswith("1\n00:00:01,000 --> 00:00:02,000\nGröße\n\n")
    assert ("00:00:02,000 --> 00:00:03,000" in text) == (name == "stpp")


_PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n{}#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "playlist", "status"),
    [
        ("gone", "", "404 Not Found"),
        ("page", "<html>", "200 OK"),
        ("empty", _PLAYLIST.format(""), "200 OK"),
        (
            "protected",
            _PLAYLIST.format('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="k"\n#EXTINF:3,\na.vtt\n'),
            "200 OK",
        ),
    ],
    ids=["gone", "page", "empty", "protected"],
)
async def test_playlists_without_subtitles(
    harness: Harness, small_site: SmallSite, name: str, playlist: str, status: str
) -> None:
    """A playlist of subtitles that cannot be read costs the subtitles, not the video."""
    small_site.add(f"/{name}.m3u8", playlist, "application/vnd.apple.mpegurl", status)
    url = small_site.add_page(
        f"/{name}-list.html", f'<track kind="subtitles" srclang="en" src="/{name}.m3u8">'
    )
    result = await harness.fetch(url, FormatSpec(subtitles=Subtitles(languages=["en"], embed=True)))
    assert reasons(result) == [Warned.SUBTITLES_MISSING]
    assert products(result, ArtifactInfo.VIDEO)


async def test_subtitles_of_periods(harness: Harness, small_site: SmallSite) -> None:
    """Subtitles of a DASH manifest of several periods are one track."""
    small_site.add("/dash.vtt", f"WEBVTT\n\n{CUE}", "text/vtt")
    one = MPD.format(attributes='mimeType="text/vtt"', location="<BaseURL>/dash.vtt</BaseURL>")
    head, _, tail = one.partition("<Period>")
    period = f'<Period duration="PT3S">{tail.partition("</MPD>")[0]}'
    small_site.add(
        "/periods.mpd", head.replace("PT3S", "PT6S") + period * 2 + "</MPD>", "application/dash+xml"
    )
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    (product,) = (await harness.fetch(f"{small_site.origin}/periods.mpd", spec)).products
    times = re.findall(r"(\S+) -->", product.path.read_text())
    assert times == ["00:00:01,000", "00:00:04,000"]


@pytest.mark.parametrize(
    ("mpegts", "cue_start", "shown"),
    [
        (900_000, 1.0, 1.0),
        (0, 11.0, 1.0),
        (945_000, 1.0, 1.5),
        (855_000, 1.0, 0.5),
        (2**33 - 90_000, 12.0, 1.0),
        (1_350_000, 1.0, 1.0),
        (90_000_000, 1.0, 1.0),
        (None, 1.0, 1.0),
    ],
)
async def test_clock_of_segments(
    harness: Harness,
    small_site: SmallSite,
    tmp_path: Path,
    mpegts: int | None,
    cue_start: float,
    shown: float,
) -> None:
    """Subtitles of HLS are shown by the clock that they share with the video, which begins at 10 s.

    Where that would show most of them never, they are shown as they are.
    """
    segment = tmp_path / "v.ts"
    clock = ["-muxdelay", "0", "-muxpreload", "0", "-output_ts_offset", "10"]
    (tmp_path / "v.mp4").write_bytes(small_site.site.responses["/v.mp4"].partition(b"\r\n\r\n")[2])
    tools.run_ffmpeg("-i", str(tmp_path / "v.mp4"), "-c", "copy", *clock, str(segment))
    folder = f"/clock-{mpegts}-{cue_start:.0f}"
    media = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"
    master = (
        '#EXTM3U\n#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",LANGUAGE="en",NAME="English",URI="subs.m3u8"\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=160x90,SUBTITLES="s",CODECS="avc1.42e00a,mp4a.40.2"\n'
        "video.m3u8\n"
    )
    head = f"X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{mpegts}\n" if mpegts is not None else ""
    cue = f"00:{cue_start:06.3f} --> 00:{cue_start + 0.4:06.3f}\nfirst\n"
    small_site.add(f"{folder}/v.ts", segment.read_bytes(), "video/mp2t")
    small_site.add(f"{folder}/s.vtt", f"WEBVTT\n{head}\n{cue}", "text/vtt")
    for name, text in (("master", master), ("video", media.format("v.ts")), ("subs", media.format("s.vtt"))):
        small_site.add(f"{folder}/{name}.m3u8", text, "application/vnd.apple.mpegurl")
    spec = FormatSpec(subtitles=Subtitles(languages=["en"], embed=True))
    result = await harness.fetch(f"{small_site.origin}{folder}/master.m3u8", spec)
    (path,) = products(result, ArtifactInfo.SUBTITLE)
    minutes, seconds = path.read_text().split("\n")[1].partition(" -->")[0].replace(",", ".").split(":")[1:]
    assert float(minutes) * 60 + float(seconds) == pytest.approx(shown, abs=0.1)
    assert "first" in embedded_text(products(result, ArtifactInfo.VIDEO)[0])


def picture(name: str, tmp_path: Path, size: str = "33x17") -> bytes:
    """Return a picture that ffmpeg writes as *name*."""
    path = tmp_path / name
    tools.run_ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s={size}:d=1:r=1", "-frames:v", "1", "-update", "1", str(path)
    )
    return path.read_bytes()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="18"/>'
THUMBNAILS: list[tuple[str, Callable[[Path], bytes], bool]] = [
    ("jpg", lambda folder: picture("t.jpg", folder), True),
    ("gif", lambda folder: picture("t.gif", folder), True),
    ("bmp", lambda folder: picture("t.bmp", folder), True),
    ("tiff", lambda folder: picture("t.tiff", folder), True),
    ("svg", lambda _: SVG, False),
    ("text", lambda _: b"no picture", False),
    ("cut", lambda folder: picture("t.jpg", folder)[:30], False),
    ("empty", lambda _: b"", False),
]


@pytest.mark.parametrize(("name", "make", "is_readable"), THUMBNAILS, ids=[name for name, *_ in THUMBNAILS])
async def test_thumbnails(
    harness: Harness,
    small_site: SmallSite,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], bytes],
    is_readable: bool,
) -> None:
    """A thumbnail of any kind becomes a JPEG, or a warning beside the video."""
    small_site.add(f"/t.{name}", make(tmp_path), "image/x")
    url = small_site.add_video_object(f"/{name}", thumbnailUrl=f"{small_site.origin}/t.{name}")
    result = await harness.fetch(url, FormatSpec(thumbnail=True))
    assert products(result, ArtifactInfo.VIDEO)
    assert reasons(result) == ([] if is_readable else [Warned.THUMBNAIL_MISSING])
    for path in products(result, ArtifactInfo.THUMBNAIL):
        assert probe(path)["streams"][0]["codec_name"] == "mjpeg"


@pytest.mark.parametrize("first", ["missing", "text", "svg", "http://"])
async def test_next_thumbnail(harness: Harness, small_site: SmallSite, tmp_path: Path, first: str) -> None:
    """If the best thumbnail cannot be read, the next one is taken."""
    small_site.add("/good.jpg", picture("t.jpg", tmp_path), "image/jpeg")
    small_site.add("/missing.jpg", "", "image/jpeg", "404 Not Found")
    small_site.add("/text.jpg", "no picture", "image/jpeg")
    small_site.add("/svg.jpg", SVG, "image/svg+xml")
    urls = [f"{small_site.origin}/good.jpg", f"{small_site.origin}/{first}.jpg"]
    url = small_site.add_video_object(f"/next-{first[:4]}", thumbnailUrl=urls)
    result = await harness.fetch(url, FormatSpec(thumbnail=True))
    assert len(products(result, ArtifactInfo.THUMBNAIL)) == 1
    assert reasons(result) == []


CHAPTERS: dict[str, tuple[list[tuple[Any, Any, Any]], int, bool]] = {
    "order": ([("C", 2, 3), ("A", 0, 1), ("B", 1, 2)], 3, False),
    "ends": ([("C", 2, None), ("A", 0, None), ("B", "1", 0)], 3, False),
    "overlap": ([("A", 0, 3), ("B", 0.5, 3)], 2, True),
    "beyond": ([("A", 0, 1), ("B", 1, 60), ("C", 60, 70)], 2, True),
    "same": ([("Part", 0, 1), ("Part", 1, 2), ("Part", 2, 3)], 3, False),
    "names": ([("a=b;c#d\\e", 0, 1), ('x/y: "z"\nnew', 1, 2), ("日本語 🎬", 2, 3)], 3, False),
    "short": ([("A", 0, 0.1), ("B", 0.1, 0.2), ("C", 0.2, 3)], 3, False),
    "after": ([("A", 10, 20)], 1, True),
}


@pytest.mark.parametrize("name", CHAPTERS)
async def test_chapters(harness: Harness, small_site: SmallSite, name: str) -> None:
    """Chapters of any kind are in the video, in order and within it, and each has a file of its own."""
    stated, count, is_corrected = CHAPTERS[name]
    parts = [{"@type": "Clip", "name": t, "startOffset": a, "endOffset": b} for t, a, b in stated]
    url = small_site.add_video_object(f"/chapters-{name}", hasPart=parts)
    result = await harness.fetch(url, FormatSpec(chapters=FormatSpec.SPLIT))
    (path,) = products(result, ArtifactInfo.VIDEO)
    spans = [(float(c["start_time"]), float(c["end_time"])) for c in probe(path)["chapters"]]
    assert spans == sorted(spans)
    assert all(0 <= start < end <= SECONDS + 0.2 for start, end in spans)
    files = products(result, ArtifactInfo.CHAPTER)
    names = {product.info.file_name for product in result.products}
    assert len(spans) == len(files) == count
    assert len(names) == 1 + count
    assert reasons(result) == ([Warned.TIMES_CORRECTED] if is_corrected else [])
    assert float(probe(path)["format"]["duration"]) == pytest.approx(SECONDS, abs=0.2)


HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/vtt\r\nContent-Length: 99999\r\n\r\n"


@pytest.mark.parametrize("kind", ["subtitles", "segments", "thumbnail", "all"])
async def test_stalled_extras(harness: Harness, small_site: SmallSite, kind: str) -> None:
    """Subtitles and thumbnails that a site begins to send and never ends cost themselves, not the video."""
    paths = [f"/hangs-{kind}-{number}" for number in range(3)]
    for path in paths:
        small_site.site.responses[path] = (HEAD + "WEBVTT\n\n").encode()
        small_site.site.hanging.add(path)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"
    small_site.add("/hangs.m3u8", playlist.format(paths[0]), "application/vnd.apple.mpegurl")
    sources = ["/hangs.m3u8"] if kind == "segments" else paths
    tracks = "".join(
        f'<track kind="subtitles" srclang="{language}" src="{path}">'
        for language, path in zip(("en", "de", "fr"), sources, strict=False)
    )
    url = small_site.add_page(f"/hangs-{kind}.html", tracks)
    if kind == "thumbnail":
        urls = [f"{small_site.origin}{path}" for path in paths]
        url = small_site.add_video_object("/hangs-thumbnail.html", thumbnailUrl=urls)
    languages = {"thumbnail": [], "all": ["all"]}.get(kind, ["en"])
    spec = FormatSpec(thumbnail=kind == "thumbnail")
    if languages:
        spec.subtitles.CopyFrom(Subtitles(languages=languages, embed=True))
    started = time.monotonic()
    result = await harness.fetch(url, spec, idle_seconds=2.0)
    assert products(result, ArtifactInfo.VIDEO)
    assert time.monotonic() - started < 20
    expected = Warned.THUMBNAIL_MISSING if kind == "thumbnail" else Warned.SUBTITLES_MISSING
    assert set(reasons(result)) == {expected}
    if languages:
        assert "too long" in result.warnings[0].message


@pytest.mark.parametrize(("audio", "has_chapters"), [("FLAC", False), ("WAV", False), ("MP3", True)])
async def test_container_without_chapters(
    harness: Harness, small_site: SmallSite, audio: str, has_chapters: bool
) -> None:
    """Chapters that the container cannot hold are a warning."""
    parts = [{"@type": "Clip", "name": "A", "startOffset": 0, "endOffset": 2}]
    url = small_site.add_video_object("/container", hasPart=parts)
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, chapters=FormatSpec.EMBED)
    spec.audio.format = FormatSpec.Audio.Format.Value(audio)
    result = await harness.fetch(url, spec)
    assert reasons(result) == ([] if has_chapters else [Warned.CHAPTERS_MISSING])
    assert len(probe(products(result, ArtifactInfo.AUDIO)[0])["chapters"]) == int(has_chapters)


async def test_required_subtitles(harness: Harness, small_site: SmallSite) -> None:
    """Required subtitles that cannot be read fail the job with the reason."""
    url = small_site.add_track("required.vtt", "<!doctype html>")
    spec = FormatSpec(subtitles=Subtitles(languages=["en"], required=True))
    with pytest.raises(ReelhaulError, match="en: the site sent a page"):
        await harness.fetch(url, spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"hasPart": ["x", 5, None]},
        {"hasPart": "x"},
        {"hasPart": [{"@type": "Clip", "name": {"a": 1}, "startOffset": "PT0S", "endOffset": {}}]},
        {"name": {"a": "b"}, "description": ["x"]},
        {"name": 5, "description": {"a": 1}},
        {"thumbnailUrl": [None, 5, {"a": 1}, "http://["]},
        {"interactionStatistic": ["x", {"@type": 5}], "interactionCount": "x", "author": [{}]},
        {"duration": {"a": 1}, "uploadDate": 5, "width": "wide", "height": {}, "contentSize": []},
        {"duration": "forever", "uploadDate": "yesterday", "keywords": 5, "encodingFormat": 7},
    ],
    ids=range(9),
)
async def test_metadata_of_the_wrong_type(
    harness: Harness, small_site: SmallSite, fields: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """A description of the video with values of the wrong type costs these values only."""
    url = small_site.add_video_object(f"/wrong-{request.node.callspec.id}", **fields)
    result = await harness.fetch(url, FormatSpec(chapters=FormatSpec.EMBED, info_json=True))
    assert products(result, ArtifactInfo.VIDEO)
    assert products(result, ArtifactInfo.INFO)
