"""Wishes beyond a plain video, through the whole suite: cut, split, freed of sponsors, translated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite
from tests.suite.watching import completed, saved


def _seconds(suite: Suite, file: dict[str, Any], folder: Path) -> float:
    return tools.probe(saved(suite, file, folder)).duration


def test_clip(tube: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A stretch of a video comes alone, to the frame."""
    wishes = {"quality": "360p", "start_seconds": 1.5, "end_seconds": 4}
    done = completed(tube, youtube.watch_url("plain360"), **wishes)
    assert _seconds(tube, done["files"][0], tmp_path) == pytest.approx(2.5, abs=0.1)


def test_chapters(tube: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """Each chapter is a file beside the whole."""
    done = completed(tube, youtube.watch_url("plain360"), quality="360p", chapters="split")
    names = [file["name"] for file in done["files"]]
    assert [name.split(" - ")[0] for name in names[1:]] == ["01 Beginning", "02 Middle", "03 End"]
    assert _seconds(tube, done["files"][1], tmp_path) == pytest.approx(2, abs=0.2)


def test_sponsors(tube: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """Sponsored stretches are gone."""
    done = completed(tube, youtube.watch_url("sponsored"), quality="360p", sponsorblock="remove")
    assert _seconds(tube, done["files"][0], tmp_path) == pytest.approx(4, abs=0.2)


def test_translation(tube: Suite, youtube: YouTube) -> None:
    """What is said comes in another language as well."""
    wishes = {"subtitles_only": True, "subtitle_languages": ["en"], "translate_to": "fr"}
    done = completed(tube, youtube.watch_url("talk", copy=5), **wishes)
    texts = [tube.http.get(file["url"]).text for file in done["files"]]
    assert [text.count("[fr]") for text in texts] == [0, 20]
