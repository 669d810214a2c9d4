"""Edited downloads: clips, chapters as files, SponsorBlock segments removed, translated subtitles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import download, save_file
from tests.suite.suite import Suite


def _duration(suite: Suite, file: dict[str, Any], folder: Path) -> float:
    return tools.probe(save_file(suite, file, folder)).duration


def test_clip(youtube_suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A clip has the requested duration, to the frame."""
    options = {"quality": "360p", "start_seconds": 1.5, "end_seconds": 4}
    completed = download(youtube_suite, youtube.watch_url("plain360"), **options)
    assert _duration(youtube_suite, completed["files"][0], tmp_path) == pytest.approx(2.5, abs=0.1)


def test_chapters(youtube_suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """With ``chapters="split"`` each chapter is a file in addition to the whole video."""
    url = youtube.watch_url("plain360")
    completed = download(youtube_suite, url, quality="360p", chapters="split")
    names = [file["name"] for file in completed["files"]]
    assert [name.split(" - ")[0] for name in names[1:]] == ["01 Beginning", "02 Middle", "03 End"]
    assert _duration(youtube_suite, completed["files"][1], tmp_path) == pytest.approx(2, abs=0.2)


def test_sponsorblock(youtube_suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """With ``sponsorblock="remove"`` the sponsored segments are cut out."""
    url = youtube.watch_url("sponsored")
    completed = download(youtube_suite, url, quality="360p", sponsorblock="remove")
    assert _duration(youtube_suite, completed["files"][0], tmp_path) == pytest.approx(4, abs=0.2)


def test_translation(youtube_suite: Suite, youtube: YouTube) -> None:
    """With ``translate_to`` there are the original subtitles and their translation."""
    options = {"subtitles_only": True, "subtitle_languages": ["en"], "translate_to": "fr"}
    completed = download(youtube_suite, youtube.watch_url("talk", copy=5), **options)
    texts = [youtube_suite.http.get(file["url"]).text for file in completed["files"]]
    assert [text.count("[fr]") for text in texts] == [0, 20]
