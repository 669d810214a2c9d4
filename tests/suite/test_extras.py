"""Extras beside the video, as sites send them, never fail a download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sites import tools
from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.media import ensure_media
from tests.sites.site import Site, start_site
from tests.suite.downloads import download, save_file
from tests.suite.suite import Suite

_SUBTITLES = (
    "WEBVTT\n\n00:01.000 --> 00:02.000\nÜber die Straße: a &lt; b, I <3 you\n\n"
    "66:00:00.000 --> 66:00:02.000\nfar away\n\n00:05.000 --> 00:04.000\nbackwards\n"
)
_CHAPTERS = [("C", 4, 90), ("A", 1, 2), ("B", 2, 4), ("D", 90, 99)]

# Labels of languages as sites write them, and what they are.
_LABELS = {"en_US": "en-US", "de_sdh": "de", "frFR": "fr-FR", "iw": "he", "Klingonisch": "und", "": "und"}


class InvalidExtrasSite(Site):
    """A site whose subtitles, thumbnail and chapters are invalid."""

    async def respond(self, request: Request) -> Response:
        """Return the pages ``/subtitles``, ``/labels`` and ``/chapters``, or what any site has."""
        video = self.url("/media/360.mp4")
        if request.path == "/odd.vtt":
            return Response(200, _SUBTITLES.encode("utf-16"), {"Content-Type": "text/vtt"})
        if request.path == "/odd.jpg":
            return Response(200, b"<svg/>", {"Content-Type": "image/jpeg"})
        if request.path == "/subtitles":
            track = '<track kind="subtitles" srclang="de" src="/odd.vtt">'
            return _page(f'<video><source src="{video}" type="video/mp4">{track}</video>')
        if request.path == "/labels":
            tracks = "".join(
                f'<track kind="subtitles" srclang="{label}" src="/odd.vtt?{label}">' for label in _LABELS
            )
            return _page(f'<video><source src="{video}" type="video/mp4">{tracks}</video>')
        if request.path == "/chapters":
            parts = [
                {"@type": "Clip", "name": name, "startOffset": start, "endOffset": end}
                for name, start, end in _CHAPTERS
            ]
            fields = {"@context": "https://schema.org", "@type": "VideoObject", "name": "Odd"}
            fields |= {"contentUrl": video, "hasPart": parts, "thumbnailUrl": self.url("/odd.jpg")}
            return _page(f'<script type="application/ld+json">{json.dumps(fields)}</script>')
        return await super().respond(request)


def _page(content: str) -> Response:
    body = f"<html><head><title>Odd</title></head><body>{content}</body></html>"
    return Response(200, body.encode(), {"Content-Type": "text/html"})


@pytest.fixture(scope="module")
def invalid_extras_site() -> Iterator[Site]:
    """A running site."""
    site = InvalidExtrasSite(ensure_media())
    with serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="odd"):
        yield site


def test_invalid_subtitles(suite: Suite, invalid_extras_site: Site, tmp_path: Path) -> None:
    """The video keeps its duration, all text is delivered, and corrected cues are a warning."""
    completed = download(
        suite, invalid_extras_site.url("/subtitles"), subtitle_languages=["de"], embed_subtitles=True
    )
    files = {file["kind"]: file for file in completed["files"]}
    video = tools.probe(save_file(suite, files["VIDEO"], tmp_path))
    assert video.duration == pytest.approx(8, abs=0.2)
    assert video.codecs["subtitle"] == "mov_text"
    cues = suite.http.get(files["SUBTITLE"]["url"]).content.decode().split("\n\n")
    assert cues[0] == "1\n00:00:01,000 --> 00:00:02,000\nÜber die Straße: a < b, I <3 you"
    assert cues[1].startswith("2\n00:00:05,000 --> 00:00:0")
    (warning,) = completed["warnings"]
    assert "de" in warning
    assert "corrected or left out: 2" in warning


def test_language_labels(suite: Suite, invalid_extras_site: Site) -> None:
    """Subtitles are stored with a valid language tag for every label of the site."""
    completed = download(suite, invalid_extras_site.url("/labels"), subtitle_languages=["all"])
    languages = [file["language"] for file in completed["files"] if file["kind"] == "SUBTITLE"]
    # The same words under two labels that name no language are one track.
    assert languages == list(dict.fromkeys(_LABELS.values()))
    names = [file["name"] for file in completed["files"]]
    assert "Odd.de.sdh.srt" in names
    assert len(set(names)) == len(names)


def test_invalid_chapters_and_thumbnail(suite: Suite, invalid_extras_site: Site, tmp_path: Path) -> None:
    """Chapters are in order and within the video; an invalid thumbnail is a warning."""
    completed = download(suite, invalid_extras_site.url("/chapters"), thumbnail=True, chapters="split")
    names = [file["name"] for file in completed["files"] if file["kind"] == "CHAPTER"]
    assert [name.split(" - ")[0] for name in names][-3:] == ["02 A", "03 B", "04 C"]
    assert [file["kind"] for file in completed["files"]].count("THUMBNAIL") == 0
    path = save_file(suite, completed["files"][0], tmp_path)
    assert tools.probe(path).duration == pytest.approx(8, abs=0.2)
    assert len(completed["warnings"]) == 2
