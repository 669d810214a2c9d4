"""The site's media are what their names say, the same at each making."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sites import media, tools
from tests.sites.site import Site


@pytest.mark.parametrize("height", media.HEIGHTS)
def test_progressive_files(site: Site, height: int) -> None:
    """Each progressive file has its height, moving picture and tone, and its length."""
    found = tools.probe(site.media.file(f"/media/{height}.mp4"))
    assert height == found.height
    assert found.codecs == {"video": "h264", "audio": "aac"}
    assert pytest.approx(found.duration, abs=0.1) == media.SECONDS


def test_thumbnail_and_audio(site: Site) -> None:
    """There is a picture to show, and a sound for each language."""
    assert tools.probe(site.media.file("/media/thumbnail.jpg")).codecs["video"] == "mjpeg"
    for language in media.LANGUAGES:
        assert tools.probe(site.media.file(f"/media/audio-{language}.m4a")).codecs == {"audio": "aac"}


def test_making_twice_makes_the_same_bytes(site: Site, tmp_path: Path) -> None:
    """A second making, elsewhere, gives the same files: digests may be compared over runs."""
    assert media.made(tmp_path).digests == site.media.digests


def test_what_is_made_is_kept(site: Site) -> None:
    """Asking again for media that are there makes nothing."""
    kept = site.media.file("/media/1080.mp4").stat()
    assert kept == media.made(site.media.folder.parent).file("/media/1080.mp4").stat()


def test_stream_digests_survive_a_remux(site: Site, tmp_path: Path) -> None:
    """The packets of a remuxed file are known by their digests."""
    remuxed = tmp_path / "remuxed.mkv"
    original = site.media.file("/media/360.mp4")
    tools.run_ffmpeg("-i", str(original), "-c", "copy", str(remuxed))
    assert tools.stream_digests(original) == tools.stream_digests(remuxed)
