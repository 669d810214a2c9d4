"""Wishes beyond a plain video, through the whole suite: cut, split, translated, waited for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite, running_suite
from tests.suite.watching import created, ended


@pytest.fixture(scope="module")
def suite(youtube: YouTube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose way out leads to the stand-in for YouTube."""
    settings = {"fetcher_upstream_proxy": youtube.proxy_url, "fetcher_ca_file": str(youtube.ca_file)}
    with running_suite(tmp_path_factory.mktemp("formats") / "data", **settings) as suite:
        yield suite


def _completed(suite: Suite, url: str, **wishes: Any) -> dict[str, Any]:
    last = ended(suite, created(suite, url, **wishes))
    assert "completed" in last, json.dumps(last)
    done: dict[str, Any] = last["completed"]
    return done


def _seconds(suite: Suite, file: dict[str, Any], folder: Path) -> float:
    path = folder / "saved"
    path.write_bytes(suite.http.get(file["url"]).content)
    return tools.probe(path).duration


def test_clip(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A stretch of a video comes alone, to the frame."""
    wishes = {"quality": "360p", "start_seconds": 1.5, "end_seconds": 4}
    done = _completed(suite, youtube.watch_url("plain360"), **wishes)
    assert _seconds(suite, done["files"][0], tmp_path) == pytest.approx(2.5, abs=0.1)


def test_chapters(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """Each chapter is a file beside the whole."""
    done = _completed(suite, youtube.watch_url("plain360"), quality="360p", chapters="split")
    names = [file["name"] for file in done["files"]]
    assert [name.split(" - ")[0] for name in names[1:]] == ["01 Beginning", "02 Middle", "03 End"]
    assert _seconds(suite, done["files"][1], tmp_path) == pytest.approx(2, abs=0.2)


def test_sponsors(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """Sponsored stretches are gone."""
    done = _completed(suite, youtube.watch_url("sponsored"), quality="360p", sponsorblock="remove")
    assert _seconds(suite, done["files"][0], tmp_path) == pytest.approx(4, abs=0.2)


def test_translation(suite: Suite, youtube: YouTube) -> None:
    """What is said comes in another language as well."""
    wishes = {"subtitles_only": True, "subtitle_languages": ["en"], "translate_to": "fr"}
    done = _completed(suite, youtube.watch_url("talk", copy=5), **wishes)
    texts = [suite.http.get(file["url"]).text for file in done["files"]]
    assert [text.count("[fr]") for text in texts] == [0, 20]


def test_premiere(suite: Suite, youtube: YouTube) -> None:
    """An event that is waited for is fetched when it has begun."""
    done = _completed(suite, youtube.watch_url("premiere", copy=6), quality="360p", live="wait")
    assert done["got_quality"] == "360p"
