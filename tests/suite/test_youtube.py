"""YouTube through the whole suite: nothing of it is set but a proxy and a certificate to trust."""

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
    with running_suite(tmp_path_factory.mktemp("youtube") / "data", **settings) as suite:
        yield suite


def _completed(suite: Suite, url: str, **wishes: Any) -> dict[str, Any]:
    last = ended(suite, created(suite, url, **wishes))
    assert "completed" in last, json.dumps(last)
    done: dict[str, Any] = last["completed"]
    return done


def _saved(suite: Suite, file: dict[str, Any], folder: Path) -> Path:
    path = folder / "saved"
    path.write_bytes(suite.http.get(file["url"]).content)
    return path


@pytest.mark.parametrize(
    ("quality", "container", "sound"),
    [("2160p", "mp4", "aac"), ("1080p", "webm", "opus"), ("1080p", "mkv", "opus")],
)
def test_videos(
    suite: Suite, youtube: YouTube, tmp_path: Path, quality: str, container: str, sound: str
) -> None:
    """A video comes in the quality and the container asked for."""
    done = _completed(suite, youtube.watch_url("plain2160"), quality=quality, format=container)
    assert (done["got_quality"], done["got_format"], done["title"]) == (
        quality,
        container,
        "A moving picture",
    )
    found = tools.probe(_saved(suite, done["files"][0], tmp_path))
    assert (found.height, found.codecs["audio"]) == (int(quality[:-1]), sound)


@pytest.mark.parametrize(
    ("form", "codec"), [("mp3", "mp3"), ("m4a", "aac"), ("opus", "opus"), ("flac", "flac")]
)
def test_sounds(suite: Suite, youtube: YouTube, tmp_path: Path, form: str, codec: str) -> None:
    """Sound comes alone in each format."""
    done = _completed(suite, youtube.watch_url("plain1080"), audio_only=True, format=form)
    assert tools.probe(_saved(suite, done["files"][0], tmp_path)).codecs == {"audio": codec}


@pytest.mark.parametrize(("name", "kinds"), [("talk", "manual"), ("asronly", "auto")])
def test_transcripts(suite: Suite, youtube: YouTube, name: str, kinds: str) -> None:
    """What is said comes as text in each format, line by line, without the video."""
    formats = ["srt", "vtt", "txt", "json"]
    wishes = {"subtitles_only": True, "subtitle_formats": formats, "subtitle_kinds": kinds}
    done = _completed(suite, youtube.watch_url(name), subtitle_languages=["en"], **wishes)
    texts = {file["name"].rpartition(".")[2]: suite.http.get(file["url"]).text for file in done["files"]}
    assert set(texts) == set(formats)
    assert {text.count("this is line ") for text in texts.values()} == {20}
    assert len(json.loads(texts["json"])) == 20


def test_info(suite: Suite, youtube: YouTube) -> None:
    """Before anything is fetched, the site tells what there is."""
    told = suite.http.get("/api/v1/info", params={"url": youtube.watch_url("dubbed")}).json()
    assert "A moving picture" in json.dumps(told)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("private", "MEDIA_LOGIN_REQUIRED"),
        ("agegate", "MEDIA_LOGIN_REQUIRED"),
        ("geo", "MEDIA_GEO_BLOCKED"),
        ("removed", "MEDIA_NOT_FOUND"),
        ("copyright", "MEDIA_FORBIDDEN"),
        ("drm", "MEDIA_DRM_PROTECTED"),
        ("livelong", "MEDIA_IS_LIVE"),
        ("sabr", "EXTRACTOR_FAILED"),
    ],
)
def test_refusals_that_time_does_not_change(suite: Suite, youtube: YouTube, name: str, reason: str) -> None:
    """What YouTube refuses for good fails at its first attempt, with the reason."""
    last = ended(suite, created(suite, youtube.watch_url(name)))
    assert reason in json.dumps(last["failed"])


def test_refusal_that_passes(suite: Suite, youtube: YouTube) -> None:
    """What time may change is not the end: the download waits for its next attempt, and says why."""
    told = _waiting(suite, created(suite, youtube.watch_url("player503")), "BACKOFF")
    assert (told["error"]["reason"], told["error"]["retryable"]) == ("UPSTREAM_UNAVAILABLE", True)
    assert told["status"] == "RETRYING"


def test_throttled_site_is_parked(suite: Suite, youtube: YouTube) -> None:
    """Where YouTube throttles us its downloads wait for the site, and no attempt is charged.

    It comes last: the site stays parked for a while.
    """
    told = _waiting(suite, created(suite, youtube.watch_url("guestquota")), "SITE_PARKED")
    assert (told["status"], told["attempts"]) == ("QUEUED", 0)


def _waiting(suite: Suite, job: str, reason: str) -> dict[str, Any]:
    """The download, once it waits for *reason*."""

    def waits() -> dict[str, Any] | None:
        told: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return told if told["wait_reason"] == reason else None

    return suite.awaited(f"wait for {reason}", waits)
