"""Names, roles, defaults and languages of tracks in manifests and pages are listed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from yt_dlp.extractor.common import InfoExtractor

from reelhaul.type.v1.media_pb2 import MediaInfo, TrackRole
from reelhaul_fetcher.model.tracks.subtitle_tracks import MANIFEST_SUBTITLES
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, downloader_options
from reelhaul_fetcher.ytdlp.extract import manifest_tracks
from reelhaul_fetcher.ytdlp.extract.info import to_media_info

FULL = TrackRole.TRACK_ROLE_UNSPECIFIED
FORCED = TrackRole.TRACK_ROLE_FORCED
SDH = TrackRole.TRACK_ROLE_HEARING_IMPAIRED
COMMENTARY = TrackRole.TRACK_ROLE_COMMENTARY
DESCRIPTION = TrackRole.TRACK_ROLE_DESCRIPTION
URL = "https://site.example/master"


@pytest.fixture(scope="module")
def extractor() -> Iterator[Any]:
    """An extractor of yt-dlp."""
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        yield InfoExtractor(downloader)


def hls(extractor: Any, *renditions: str, codecs: str = "avc1.42c01e,mp4a.40.2") -> MediaInfo:
    """Return the listing of a master playlist with these *renditions* and one variant."""
    lines = [f"#EXT-X-MEDIA:{rendition}" for rendition in renditions]
    variant = f'#EXT-X-STREAM-INF:BANDWIDTH=500000,RESOLUTION=640x360,CODECS="{codecs}",AUDIO="a"'
    text = "\n".join(["#EXTM3U", *lines, variant, "v.m3u8", ""])
    formats, subtitles = extractor._parse_m3u8_formats_and_subtitles(text, URL, "mp4")
    manifest_tracks.annotate_hls(formats, subtitles, text, URL)
    return to_media_info({"formats": formats, "subtitles": subtitles})


def sound(name: str, more: str = "", uri: bool = True, language: str = "en") -> str:
    """Return the attributes of an audio rendition."""
    address = f',URI="{name[:3]}.m3u8"' if uri else ""
    return f'TYPE=AUDIO,GROUP-ID="a",NAME="{name}",LANGUAGE="{language}"{more}{address}'


def text(name: str, more: str = "", language: str = 'LANGUAGE="en",', number: int = 0) -> str:
    """Return the attributes of a subtitle rendition."""
    return f'TYPE=SUBTITLES,GROUP-ID="s",NAME="{name}",{language}URI="{name[:3]}{number}.m3u8"{more}'


DESCRIBES = ',CHARACTERISTICS="public.accessibility.describes-video"'


@pytest.mark.parametrize(
    ("renditions", "expected"),
    [
        (
            [sound("Main", ",DEFAULT=YES"), sound("AD", DESCRIBES)],
            {("en", FULL, True), ("en", DESCRIPTION, False)},
        ),
        (
            [sound("AD", DESCRIBES), sound("Main", ",DEFAULT=YES")],
            {("en", FULL, True), ("en", DESCRIPTION, False)},
        ),
        ([sound("English"), sound("Deutsch", language="ger")], {("en", FULL, True), ("de", FULL, False)}),
        (
            [sound("A", language="qaa"), sound("B", language="Mine")],
            {("qaa", FULL, True), ("", FULL, False)},
        ),
        ([sound("English"), sound("Director's commentary")], {("en", FULL, True), ("en", COMMENTARY, False)}),
        # The main sound is within the variant.
        (
            [sound("AD", DESCRIBES), sound("Main", ",DEFAULT=YES", uri=False)],
            {("en", FULL, True), ("en", DESCRIPTION, False)},
        ),
        (
            [sound("Main", uri=False), sound("AD", DESCRIBES)],
            {("en", FULL, True), ("en", DESCRIPTION, False)},
        ),
    ],
    ids=range(7),
)
def test_hls_audio(extractor: Any, renditions: list[str], expected: set[tuple[Any, ...]]) -> None:
    """Audio renditions of HLS have their language, role and default."""
    formats = [each for each in hls(extractor, *renditions).formats if each.audio_codec]
    assert {(each.language_code, each.role, each.default_audio) for each in formats} == expected
    assert len(formats) == len(expected)


def test_hls_audio_within_the_variant(extractor: Any) -> None:
    """A variant has audio if any rendition of its group is within it, wherever that is listed."""
    (variant,) = (
        f for f in hls(extractor, sound("AD", DESCRIBES), sound("Main", uri=False)).formats if f.height
    )
    assert variant.audio_codec == "mp4a.40.2"
    (variant,) = (f for f in hls(extractor, sound("AD", DESCRIBES), sound("Main")).formats if f.height)
    assert variant.audio_codec == ""


@pytest.mark.parametrize(
    ("renditions", "expected"),
    [
        (
            [text("English (forced)", ",FORCED=YES", number=1), text("English", ",DEFAULT=YES", number=2)],
            [("en", "English (forced)", FORCED), ("en", "English", FULL)],
        ),
        (
            [
                text("English"),
                text(
                    "English", ',CHARACTERISTICS="public.accessibility.describes-music-and-sound"', number=1
                ),
            ],
            [("en", "English", FULL), ("en", "English", SDH)],
        ),
        ([text("A"), text("A", number=1)], [("en", "A", FULL), ("en", "A", FULL)]),
        ([text("English", language="")], [("en", "English", FULL)]),
        ([text("Deutsch", language='LANGUAGE="de_sdh",')], [("de", "Deutsch", SDH)]),
        ([text("A", language='LANGUAGE="日本語",')], [("und", "A", FULL)]),
    ],
    ids=range(6),
)
def test_hls_subtitles(extractor: Any, renditions: list[str], expected: list[tuple[Any, ...]]) -> None:
    """Subtitle renditions of HLS are tracks of their own, with name and role."""
    tracks = hls(extractor, *renditions).subtitle_tracks
    assert [(track.language_code, track.display_name, track.role) for track in tracks] == expected


def dash(extractor: Any, *sets: str) -> MediaInfo:
    """Return the listing of an MPD with a video and these AdaptationSets."""
    document = f"""<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT6S"><Period>
      <AdaptationSet mimeType="video/mp4">
        <Representation id="0" bandwidth="300000" codecs="avc1.42c01e"/></AdaptationSet>
      {"".join(sets)}</Period></MPD>"""
    element = ElementTree.fromstring(document)
    manifest_tracks.complete_dash(element)
    periods = list(extractor._parse_mpd_periods(element, mpd_base_url=URL, mpd_url=URL))
    manifest_tracks.annotate_dash(periods[0], element[0])
    formats, subtitles = extractor._merge_mpd_periods(periods)
    return to_media_info({"formats": formats, "subtitles": subtitles})


def adaptation(number: int, role: str = "", *, kind: str = "audio", lang: str = "en", more: str = "") -> str:
    """Return an AdaptationSet of one Representation."""
    roles = f'<Role schemeIdUri="urn:mpeg:dash:role:2011" value="{role}"/>' if role else ""
    mime = {"audio": "audio/mp4", "text": "text/vtt", "stpp": "application/mp4"}[kind]
    codec = {"audio": "mp4a.40.2", "text": "", "stpp": "stpp"}[kind]
    language = f'lang="{lang}"' if lang else ""
    return f"""<AdaptationSet mimeType="{mime}" {language}>{roles}{more}
      <Representation id="{number}" bandwidth="{number}000" codecs="{codec}"><BaseURL>{number}</BaseURL>
      </Representation></AdaptationSet>"""


PURPOSE = '<Accessibility schemeIdUri="urn:tva:metadata:cs:AudioPurposeCS:2007" value="1"/>'


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (
            [adaptation(1, "main"), adaptation(2, "alternate", more=PURPOSE)],
            [("1", "en", FULL, True), ("2", "en", DESCRIPTION, False)],
        ),
        (
            [adaptation(1, "alternate", more=PURPOSE), adaptation(2, "main")],
            [("1", "en", DESCRIPTION, False), ("2", "en", FULL, True)],
        ),
        (
            [adaptation(1, "description"), adaptation(2)],
            [("1", "en", DESCRIPTION, False), ("2", "en", FULL, True)],
        ),
        ([adaptation(1, lang="ger"), adaptation(2)], [("1", "de", FULL, True), ("2", "en", FULL, False)]),
        (
            [adaptation(1, lang="de"), adaptation(2, "main")],
            [("1", "de", FULL, False), ("2", "en", FULL, True)],
        ),
        (
            [adaptation(1, "main"), adaptation(2, "main", lang="de")],
            [("1", "en", FULL, True), ("2", "de", FULL, False)],
        ),
        (
            [adaptation(1, more="<Label>Commentary</Label>"), adaptation(2)],
            [("1", "en", COMMENTARY, False), ("2", "en", FULL, True)],
        ),
        ([adaptation(1, kind="stpp"), adaptation(2)], [("2", "en", FULL, True)]),
        ([adaptation(1, lang="")], [("1", "", FULL, True)]),
    ],
    ids=range(9),
)
def test_dash_audio(extractor: Any, sets: list[str], expected: list[tuple[Any, ...]]) -> None:
    """Audio of DASH has its role, and the default is the main one, or the first."""
    formats = [each for each in dash(extractor, *sets).formats if each.audio_codec]
    found = [(each.format_id, each.language_code, each.role, each.default_audio) for each in formats]
    assert found == expected


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (
            [adaptation(1, "forced-subtitle", kind="text"), adaptation(2, "subtitle", kind="text")],
            [FORCED, FULL],
        ),
        ([adaptation(1, kind="text"), adaptation(2, "caption", kind="text")], [FULL, SDH]),
        ([adaptation(1, kind="text"), adaptation(2, kind="text")], [FULL, FULL]),
        ([adaptation(1, kind="stpp", lang=""), adaptation(2, "main")], [FULL]),
        ([adaptation(1, kind="text", more="<Label>English (forced)</Label>")], [FORCED]),
        ([adaptation(1, "description", kind="text"), adaptation(2)], [DESCRIPTION]),
    ],
    ids=range(6),
)
def test_dash_subtitles(extractor: Any, sets: list[str], expected: list[TrackRole.ValueType]) -> None:
    """Subtitles of DASH are tracks of their own, with their role."""
    assert [track.role for track in dash(extractor, *sets).subtitle_tracks] == expected


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        ('<track src="a.vtt" srclang="en" label="English">', [("en", "English", FULL)]),
        (
            '<track src="a.vtt" srclang="en" label="English"><track src="b.vtt" srclang="en" label="Forced">',
            [("en", "English", FULL), ("en", "Forced", FORCED)],
        ),
        ('<track src="a.vtt" srclang="en" kind="captions">', [("en", "", SDH)]),
        ('<track src="a.vtt">', [("und", "", FULL)]),
        ('<track src="a.vtt" srclang="" label="日本語">', [("und", "日本語", FULL)]),
        ('<track src="a.vtt" label="English">', [("en", "English", FULL)]),
        ('<track src="a.vtt" srclang="de_sdh">', [("de", "", SDH)]),
        ('<track src="a.vtt" kind="descriptions" srclang="en">', []),
    ],
    ids=range(8),
)
def test_html(extractor: Any, tracks: str, expected: list[tuple[Any, ...]]) -> None:
    """The tracks of a page have their label and kind, and none of them stops yt-dlp."""
    page = f'<video><source src="/v.mp4" type="video/mp4">{tracks}</video>'
    entries = extractor._parse_html5_media_entries(URL, page, "page")
    manifest_tracks.annotate_html(entries, page, URL)
    info = {"id": "x", "title": "x", "extractor": "html5", "webpage_url": URL, **entries[0]}
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        processed = downloader.process_video_result(info, download=False)
    found = to_media_info(processed).subtitle_tracks
    assert [(track.language_code, track.display_name, track.role) for track in found] == expected


@pytest.mark.parametrize(
    ("media", "count", "variant_codec"),
    [
        ('TYPE=AUDIO,GROUP-ID="a",URI="a.m3u8"', 2, "none"),
        ('TYPE=AUDIO,GROUP-ID="a",NAME="",URI="a.m3u8"', 2, "none"),
        ('TYPE=AUDIO,GROUP-ID="a",NAME="x",URI="https://[a/a.m3u8"', 2, "none"),
        ('TYPE=AUDIO,URI="a.m3u8"', 1, "mp4a.40.2"),
        ('TYPE=SUBTITLES,GROUP-ID="s",URI="s.m3u8"', 1, "mp4a.40.2"),
        ("TYPE=SUBTITLES", 1, "mp4a.40.2"),
        ("", 1, "mp4a.40.2"),
    ],
    ids=range(7),
)
def test_incomplete_renditions(extractor: Any, media: str, count: int, variant_codec: str) -> None:
    """A rendition without a name, a language or a valid address costs at most itself."""
    codecs = 'CODECS="avc1.42c01e,mp4a.40.2",AUDIO="a"'
    playlist = f"#EXTM3U\n#EXT-X-MEDIA:{media}\n#EXT-X-STREAM-INF:BANDWIDTH=500000,{codecs}\nv.m3u8\n"
    completed = manifest_tracks.complete_hls(playlist)
    formats, subtitles = extractor._parse_m3u8_formats_and_subtitles(completed, URL, "mp4")
    manifest_tracks.annotate_hls(formats, subtitles, playlist, URL)
    assert (len(formats), formats[-1]["acodec"]) == (count, variant_codec)


@pytest.mark.parametrize("mime", ["", 'contentType="text"', 'contentType="audio"', 'contentType="odd"'])
def test_incomplete_adaptation_sets(extractor: Any, mime: str) -> None:
    """An AdaptationSet without a type costs at most itself."""
    broken = (
        f'<AdaptationSet {mime}><Representation id="9"><BaseURL>9</BaseURL></Representation></AdaptationSet>'
    )
    media = dash(extractor, broken, adaptation(1, "main"))
    assert {"0", "1"} <= {each.format_id for each in media.formats}


@pytest.mark.parametrize(
    ("own", "manifests", "languages"),
    [
        ({}, [{"en": [{"url": "a", "ext": "vtt"}]}], ["en"]),
        (None, [{"en": [{"url": "a", "ext": "vtt"}]}, {"en": [{"url": "a", "ext": "vtt"}]}], ["en"]),
        ({"de": [{"url": "b", "ext": "vtt"}]}, [{"en": [{"url": "a", "ext": "vtt"}]}], ["de"]),
        ({}, [{}], []),
        ({}, [None], []),
        ({}, [], []),
    ],
    ids=range(6),
)
def test_subtitles_of_manifests(own: Any, manifests: list[Any], languages: list[str]) -> None:
    """Subtitles of a manifest are listed if the extractor reads nothing but its formats."""
    formats = [
        {"url": URL, "ext": "mp4", "format_id": str(number), **({MANIFEST_SUBTITLES: each} if each else {})}
        for number, each in enumerate(manifests)
    ]
    info = {"id": "x", "title": "x", "extractor": "x", "subtitles": own}
    info |= {"formats": formats} if formats else {"url": URL, "ext": "mp4"}
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        processed = downloader.process_video_result(info, download=False)
    assert [track.language_code for track in to_media_info(processed).subtitle_tracks] == languages


def test_broken_subtitles() -> None:
    """Subtitles of an extractor that yt-dlp stumbles over cost at most themselves."""
    offered = {
        None: [{"url": "a.vtt"}],
        "en": [{"ext": None}, None, {"url": 5}, {"url": "b.vtt"}],
        "de": None,
    }
    info = {
        "id": "x",
        "title": "x",
        "url": URL,
        "ext": "mp4",
        "subtitles": offered,
        "automatic_captions": [1],
    }
    with Downloader(ResponseLog(), downloader_options("", writeautomaticsub=True)) as downloader:
        processed = downloader.process_video_result({**info, "extractor": "x"}, download=False)
    tracks = to_media_info(processed).subtitle_tracks
    assert [track.language_code for track in tracks] == ["und", "en"]


def test_many_renditions_of_many_variants() -> None:
    """Variants that share a large group of audio take linear time."""
    lines = [f"#EXT-X-MEDIA:{sound(f'{number:05}')}" for number in range(1500)]
    for number in range(1500):
        lines += ['#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"', f"v{number}.m3u8"]
    formats = [{"url": f"{URL.rpartition('/')[0]}/v{number}.m3u8"} for number in range(1500)]
    started = time.process_time()
    manifest_tracks.annotate_hls(formats, {}, "\n".join(["#EXTM3U", *lines]), URL)
    assert time.process_time() - started < 5
