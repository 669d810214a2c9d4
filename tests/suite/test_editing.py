"""Wishes beyond a plain video, through the whole suite: cut, split, freed of sponsors, translated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import download, save_file
from tests.suite.suite import Suite


def _seconds(suite: Suite, file: dict[str, Any], folder: Path) -> float:
    return tools.probe(save_file(suite, file, folder)).duration


def test_clip(youtube_suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A stretch of a video comes alone, to the frame."""
    wishes = {"quality": "360p", "start_seconds": 1.5, "end_seconds": 4}
    done = download(youtube_suite, youtube.watch_url("plain360"), **wishes)
    assert _seconds(youtube_suite, done["files"][0], tmp_path) == pytest.approx(2.5, abs=0.1)


def test_chapters(youtube_suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """Each chapter is a file beside the whole."""
    done = download(youtube_suite, youtube.watch_url("plain360"), quality="360p", chapters="split")
    names = [file["name"] for file in done["files"]]
    assert [name.split(" - ")[0] for name in names[1:]] == ["01 Beginning", "02 Middle", "03 End"]
    assert _seconds(youtube_suite, done["files"][1], tmp_path) == pytest.approx(2, abs=0.2)


def test_sponsors(youtube_suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """Sponsored stretches are gone."""
    done = download(youtube_suite, youtube.watch_url("sponsored"), quality="360p", sponsorblock="remove")
    assert _seconds(youtube_suite, done["files"][0], tmp_path) == pytest.approx(4, abs=0.2)


def test_translation(youtube_suite: Suite, youtube: YouTube) -> None:
    """What is said comes in another language as well."""
    wishes = {"subtitles_only": True, "subtitle_languages": ["en"], "translate_to": "fr"}
    done = download(youtube_suite, youtube.watch_url("talk", copy=5), **wishes)
    texts = [youtube_suite.http.get(file["url"]).text for file in done["files"]]
    assert [text.count("[fr]") for text in texts] == [0, 20]
