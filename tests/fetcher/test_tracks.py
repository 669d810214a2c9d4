"""Tracks of real sites: the right one of several is delivered, and no label fails a download."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.fetcher.conftest import Harness
from tests.fetcher.guard_harness import PUBLIC, running_site
from tests.fetcher.guard_harness import Site as RawSite
from tests.fetcher.test_edits import probe
from tests.sites.site import Site

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import FormatSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

Audio, Subtitles = FormatSpec.Audio, FormatSpec.Subtitles
SUBTITLES_ONLY = FormatSpec.SUBTITLES_ONLY
FULL = "WEBVTT\n\n00:01.000 --> 00:02.000\nEvery word\n"
FORCED = "WEBVTT\n\n00:03.000 --> 00:04.000\nA SIGN\n"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:8,\n{}\n#EXT-X-ENDLIST\n"
VARIANT = "#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=640x360,"
VARIANT += 'CODECS="avc1.640028,mp4a.40.2",AUDIO="a",SUBTITLES="s"\n'
TEXT = '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",LANGUAGE="en",'
SOUND = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",'
MASTERS = {
    "forced": TEXT + 'NAME="English (forced)",FORCED=YES,URI="forced.m3u8"\n'
    + TEXT + 'NAME="English",DEFAULT=YES,URI="full.m3u8"\n'
    + SOUND + 'NAME="English",LANGUAGE="en",URI="audio-en.m3u8"\n',
    "described": SOUND + 'NAME="AD",LANGUAGE="eng",URI="audio-de.m3u8",'
    'CHARACTERISTICS="public.accessibility.describes-video"\n'
    + SOUND + 'NAME="English",LANGUAGE="eng",DEFAULT=YES,URI="audio-en.m3u8"\n',
    "languages": SOUND + 'NAME="English",LANGUAGE="en_US",DEFAULT=YES,URI="audio-en.m3u8"\n'
    + SOUND + 'NAME="Deutsch",LANGUAGE="ger",URI="audio-de.m3u8"\n',
}  # fmt: skip


def respond(site: RawSite, path: str, body: bytes | str) -> None:
    """Let *site* answer with *body* at *path*."""
    content = body.encode() if isinstance(body, str) else body
    kind = "text/html" if path.startswith("/page") else "application/octet-stream"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    site.responses[path] = head.encode() + content


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def tracks(site: Site) -> AsyncIterator[RawSite]:
    """A site with several tracks of one language."""
    async with running_site() as raw:
        for file in site.media.file("/hls").iterdir():
            if file.stem.startswith(("360", "audio-")):
                respond(raw, f"/{file.name}", file.read_bytes())
        for name, words in (("full", FULL), ("forced", FORCED)):
            respond(raw, f"/{name}.vtt", words)
            respond(raw, f"/{name}.m3u8", PLAYLIST.format(f"{name}.vtt"))
        for name, renditions in MASTERS.items():
            respond(raw, f"/{name}.master.m3u8", f"#EXTM3U\n{renditions}{VARIANT}360.m3u8\n")
        yield raw


def url(tracks: RawSite, path: str) -> str:
    return f"http://{PUBLIC}:{tracks.port}{path}"


@pytest.mark.parametrize(
    ("languages", "names"),
    [
        (["en"], {"en": "Every word"}),
        (["eng"], {"en": "Every word"}),
        (["en-US"], {"en": "Every word"}),
        (["original"], {"en": "Every word"}),
        (["en-x-forced"], {"en.forced": "A SIGN"}),
        (["en", "en-x-forced"], {"en": "Every word", "en.forced": "A SIGN"}),
        (["all"], {"en.forced": "A SIGN", "en": "Every word"}),
    ],
)
async def test_subtitles(
    harness: Harness, tracks: RawSite, languages: list[str], names: dict[str, str]
) -> None:
    """The full subtitles are the default, forced ones come if they are requested, and "all" brings both."""
    spec = FormatSpec(media_kind=SUBTITLES_ONLY, subtitles=Subtitles(languages=languages))
    result = await harness.fetch(url(tracks, "/forced.master.m3u8"), spec)
    found = {
        product.info.file_name.split(".", 1)[1].removeprefix("master.").removesuffix(".srt"): product
        for product in result.products
    }
    assert list(found) == list(names)
    for name, words in names.items():
        assert words in found[name].path.read_text()
        assert found[name].info.language_code == "en"
    assert not result.warnings


@pytest.mark.parametrize(
    ("master", "languages", "delivered", "format_id", "warnings"),
    [
        ("described", [], "en", "a-English", []),
        ("described", ["en-x-desc"], "en", "a-AD", []),
        ("languages", ["de"], "de", "a-Deutsch", []),
        ("languages", ["eng"], "en-US", "a-English", []),
        ("languages", ["fr"], "en-US", "a-English", [media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS]),
    ],
)
async def test_audio(
    harness: Harness,
    tracks: RawSite,
    master: str,
    languages: list[str],
    delivered: str,
    format_id: str,
    warnings: list[media_pb2.Warning.Reason.ValueType],
) -> None:
    """The main sound in the requested language is delivered; another one is a warning."""
    spec = FormatSpec(audio=Audio(languages=languages))
    result = await harness.fetch(url(tracks, f"/{master}.master.m3u8"), spec)
    assert result.delivered.format_ids[-1] == format_id
    assert result.delivered.audio_language_code == delivered
    assert [warning.reason for warning in result.warnings] == warnings


@pytest.mark.parametrize(
    ("label", "language"),
    [
        *(
            ("en_US", "en-US"),
            ("de_sdh", "de"),
            ("enUS", "en-US"),
            ("en ", "en"),
            ("zh-Hant-HK", "zh-Hant-HK"),
        ),
        *(
            (label, "und")
            for label in ("English", "Deutsch (Österreich)", "", "1", "日本語", "a-long-label-" * 9)
        ),
        *(("en-", "en"), ("x-klingon", "x-klingon"), (None, "und")),
    ],
)
async def test_labels(harness: Harness, tracks: RawSite, label: str | None, language: str) -> None:
    """Subtitles come whatever their label is, in a legal language."""
    attribute = "" if label is None else f'srclang="{html.escape(label)}"'
    track = f'<track kind="subtitles" {attribute} src="/full.vtt">'
    respond(tracks, "/page", f'<title>t</title><video src="/v.mp4">{track}</video>')
    for languages in (["all"], ["original"]):
        spec = FormatSpec(media_kind=SUBTITLES_ONLY, subtitles=Subtitles(languages=languages))
        result = await harness.fetch(url(tracks, "/page"), spec)
        assert [product.info.language_code for product in result.products] == [language]
        assert "Every word" in result.products[0].path.read_text()


async def test_embedded_subtitles(harness: Harness, tracks: RawSite) -> None:
    """Several tracks of one language are told apart in the container too."""
    subtitles = Subtitles(languages=["all"], embed=True)
    spec = FormatSpec(container=FormatSpec.MKV, subtitles=subtitles)
    result = await harness.fetch(url(tracks, "/forced.master.m3u8"), spec)
    streams = [s for s in probe(result.products[0].path)["streams"] if s["codec_type"] == "subtitle"]
    assert [(s["tags"]["title"], s["disposition"]["forced"]) for s in streams] == [
        ("English (forced)", 1),
        ("English", 0),
    ]
