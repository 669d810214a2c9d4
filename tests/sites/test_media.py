"""The site's media have the properties in their names and the same bytes each time they are created."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sites import media, tools
from tests.sites.site import Site


@pytest.mark.parametrize("height", media.HEIGHTS)
def test_progressive_files(site: Site, height: int) -> None:
    """Each progressive file has video of its height, audio, and the right duration."""
    probe = tools.probe(site.media.file(f"/media/{height}.mp4"))
    assert height == probe.height
    assert probe.codecs == {"video": "h264", "audio": "aac"}
    assert pytest.approx(probe.duration, abs=0.1) == media.SECONDS


def test_thumbnail_and_audio(site: Site) -> None:
    """There is a thumbnail, and an audio file for each language."""
    assert tools.probe(site.media.file("/media/thumbnail.jpg")).codecs["video"] == "mjpeg"
    for language in media.LANGUAGES:
        assert tools.probe(site.media.file(f"/media/audio-{language}.m4a")).codecs == {"audio": "aac"}


def test_media_are_reproducible(site: Site, tmp_path: Path) -> None:
    """Media created again in another folder have the same digests."""
    assert media.ensure_media(tmp_path).digests == site.media.digests


def test_media_are_cached(site: Site) -> None:
    """Existing media are not created again."""
    before = site.media.file("/media/1080.mp4").stat()
    assert before == media.ensure_media(site.media.folder.parent).file("/media/1080.mp4").stat()


def test_stream_digests_survive_a_remux(site: Site, tmp_path: Path) -> None:
    """A remuxed file has the same stream digests."""
    remuxed = tmp_path / "remuxed.mkv"
    original = site.media.file("/media/360.mp4")
    tools.run_ffmpeg("-i", str(original), "-c", "copy", str(remuxed))
    assert tools.stream_digests(original) == tools.stream_digests(remuxed)
