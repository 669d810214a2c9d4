"""Tracks of real sites: the right one of several is delivered, and no label fails a download."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf import duration_pb2
from tests.fetcher.conftest import Harness
from tests.fetcher.guard_harness import PUBLIC, running_site
from tests.fetcher.guard_harness import Site as RawSite
from tests.fetcher.test_edits import probe
from tests.sites import tools
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
        *((label, "und") for label in ("Klingonisch", "", "1", "日本語", "a-long-label-" * 9)),
        *(("en-", "en"), ("x-klingon", "x-klingon"), (None, "und")),
        *(("English", "en"), ("Deutsch (Österreich)", "de")),
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


def create_file(path: Path, *tracks: str) -> None:
    """Write a file of a second of video and these *tracks* of audio: the first mono, the second stereo."""
    arguments = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=10:d=1"]
    for number in range(len(tracks)):
        arguments += ["-f", "lavfi", "-i", f"sine=440:d=1,aformat=channel_layouts={number + 1}c"]
    for number in range(len(tracks) + 1):
        arguments += ["-map", str(number)]
    for number, track in enumerate(tracks):
        language, _, disposition = track.partition("+")
        arguments += [f"-metadata:s:a:{number}", f"language={language}"]
        arguments += [f"-disposition:a:{number}", disposition or "0"]
    tools.run_ffmpeg(
        *arguments, "-c:v", "libx264", "-c:a", "aac", "-ar", "44100", path.name, folder=path.parent
    )


@pytest.mark.parametrize(
    ("tracks_of_file", "languages", "channels", "language", "is_untouched"),
    [
        (["eng+default", "deu"], [], 1, "en", True),
        (["eng+default", "deu"], ["de"], 2, "de", False),
        (["deu", "eng+default"], [], 2, "en", True),
        (["eng+visual_impaired+default", "eng"], [], 2, "en", False),
        (["eng", "eng+visual_impaired"], ["en-x-desc"], 2, "en", False),
        (["eng+comment+default", "eng"], ["en"], 2, "en", False),
        (["eng+default"], ["en"], 1, "en", True),
        (["und+default"], [], 1, "", True),
        (["eng+dub+default", "jpn+original"], [], 2, "ja", False),
    ],
    ids=range(9),
)
async def test_tracks_of_one_file(
    harness: Harness,
    tracks: RawSite,
    tmp_path: Path,
    tracks_of_file: list[str],
    languages: list[str],
    channels: int,
    language: str,
    is_untouched: bool,
) -> None:
    """From a file with several audio tracks, the requested one is delivered."""
    path = tmp_path / "film.mkv"
    create_file(path, *tracks_of_file)
    respond(tracks, "/film.mkv", path.read_bytes())
    spec = FormatSpec(container=FormatSpec.MKV, audio=Audio(languages=languages))
    result = await harness.fetch(url(tracks, "/film.mkv"), spec)
    audio = [s for s in probe(result.products[0].path)["streams"] if s["codec_type"] == "audio"]
    played = next((s for s in audio if s["disposition"]["default"]), audio[0])
    assert (played["channels"], result.delivered.audio_language_code) == (channels, language)
    assert (len(audio) == len(tracks_of_file)) is is_untouched
    assert not result.warnings


@pytest.mark.parametrize(
    "spec",
    [
        FormatSpec(media_kind=FormatSpec.AUDIO),
        FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.OPUS)),
        FormatSpec(container=FormatSpec.WEBM),
        FormatSpec(clip=FormatSpec.Clip(start=duration_pb2.Duration(nanos=500_000_000))),
    ],
    ids=["audio", "opus", "webm", "clip"],
)
async def test_track_of_an_edited_file(
    harness: Harness, tracks: RawSite, tmp_path: Path, spec: FormatSpec
) -> None:
    """The requested track is used in every kind of output."""
    path = tmp_path / "film.mkv"
    create_file(path, "eng+default", "deu")
    respond(tracks, "/film.mkv", path.read_bytes())
    spec.audio.languages[:] = ["de"]
    result = await harness.fetch(url(tracks, "/film.mkv"), spec)
    (audio,) = (s for s in probe(result.products[0].path)["streams"] if s["codec_type"] == "audio")
    assert (audio["channels"], result.delivered.audio_language_code) == (2, "de")


@pytest.mark.parametrize(
    ("languages", "warning"),
    [
        (["en"], ""),
        (["fr"], "no audio in fr is offered: the audio is in en"),
        (["en-GB"], ""),
    ],
)
async def test_language_of_a_file(
    harness: Harness, tracks: RawSite, tmp_path: Path, languages: list[str], warning: str
) -> None:
    """A language that the site does not state is read from the file."""
    path = tmp_path / "film.mkv"
    create_file(path, "eng")
    respond(tracks, "/film.mkv", path.read_bytes())
    result = await harness.fetch(url(tracks, "/film.mkv"), FormatSpec(audio=Audio(languages=languages)))
    assert [each.message for each in result.warnings] == ([warning] if warning else [])


async def test_language_of_a_silent_file(harness: Harness, tracks: RawSite, tmp_path: Path) -> None:
    """If the file turns out to have no audio, that is what the warning says."""
    path = tmp_path / "film.mkv"
    create_file(path)
    respond(tracks, "/film.mkv", path.read_bytes())
    result = await harness.fetch(url(tracks, "/film.mkv"), FormatSpec(audio=Audio(languages=["de"])))
    assert [each.message for each in result.warnings] == ["this media has no audio; de was requested"]


async def test_language_in_the_container(harness: Harness, tracks: RawSite) -> None:
    """The language of the audio is in the file that is made."""
    result = await harness.fetch(
        url(tracks, "/languages.master.m3u8"), FormatSpec(audio=Audio(languages=["de"]))
    )
    (audio,) = (s for s in probe(result.products[0].path)["streams"] if s["codec_type"] == "audio")
    assert audio["tags"]["language"] in ("ger", "deu")


async def test_subtitles_of_a_page_with_a_playlist(harness: Harness, tracks: RawSite) -> None:
    """The subtitles of a playlist are found through a page too, where yt-dlp reads its formats only."""
    respond(tracks, "/page", '<title>t</title><video><source src="/forced.master.m3u8"></video>')
    spec = FormatSpec(media_kind=SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    result = await harness.fetch(url(tracks, "/page"), spec)
    assert "Every word" in result.products[0].path.read_text()


@pytest.mark.parametrize(("languages", "texts"), [(["en"], ["Every"]), (["all"], ["A SIGN", "Every"])])
async def test_subtitles_of_dash(
    harness: Harness, tracks: RawSite, languages: list[str], texts: list[str]
) -> None:
    """Subtitles of one language are distinguished by the roles of their AdaptationSets."""
    sets = "".join(
        f"""<AdaptationSet mimeType="text/vtt" lang="en">
        <Role schemeIdUri="urn:mpeg:dash:role:2011" value="{role}"/>
        <Representation id="{name}" bandwidth="1"><BaseURL>/{name}.vtt</BaseURL></Representation>
        </AdaptationSet>"""
        for name, role in (("forced", "forced-subtitle"), ("full", "subtitle"))
    )
    video = '<AdaptationSet mimeType="video/mp4"><Representation id="v" bandwidth="2" codecs="avc1.42c01e"/>'
    manifest = f"""<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT8S">
        <Period>{sets}{video}</AdaptationSet></Period></MPD>"""
    respond(tracks, "/tracks.mpd", manifest)
    spec = FormatSpec(media_kind=SUBTITLES_ONLY, subtitles=Subtitles(languages=languages))
    result = await harness.fetch(url(tracks, "/tracks.mpd"), spec)
    for product, words in zip(result.products, texts, strict=True):
        assert words in product.path.read_text()


async def test_audio_without_a_name(harness: Harness, tracks: RawSite) -> None:
    """Audio whose rendition has neither a name nor a language is delivered."""
    master = f'#EXTM3U\n{SOUND}URI="audio-en.m3u8"\n{VARIANT}360.m3u8\n'
    respond(tracks, "/nameless.m3u8", master)
    result = await harness.fetch(url(tracks, "/nameless.m3u8"), FormatSpec())
    assert result.delivered.audio_codec == "aac"


@pytest.mark.parametrize("container", [FormatSpec.MKV, FormatSpec.MP4])
async def test_embedded_subtitles(
    harness: Harness, tracks: RawSite, container: FormatSpec.Container.ValueType
) -> None:
    """Several tracks of one language are distinguished in the container too."""
    spec = FormatSpec(container=container, subtitles=Subtitles(languages=["all"], embed=True))
    result = await harness.fetch(url(tracks, "/forced.master.m3u8"), spec)
    streams = [s for s in probe(result.products[0].path)["streams"] if s["codec_type"] == "subtitle"]
    names = [s["tags"].get("title") or s["tags"].get("handler_name") for s in streams]
    assert names == ["English (forced)", "English"]
    if container == FormatSpec.MKV:
        assert [s["disposition"]["forced"] for s in streams] == [1, 0]
