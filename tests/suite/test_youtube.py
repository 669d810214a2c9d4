"""YouTube through the whole suite, as people ask for it: pictures, sound and words in each form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import download, save_file
from tests.suite.suite import Suite


@pytest.mark.parametrize(
    ("quality", "container", "pictures", "sound"),
    [
        ("2160p", "mp4", {"h264", "av1"}, "aac"),
        ("1080p", "webm", {"vp9", "av1"}, "opus"),
        ("1080p", "mkv", {"h264", "vp9", "av1"}, "opus"),
    ],
)
def test_videos(
    youtube_suite: Suite,
    youtube: YouTube,
    tmp_path: Path,
    quality: str,
    container: str,
    pictures: set[str],
    sound: str,
) -> None:
    """A video comes in the quality and the container asked for."""
    done = download(youtube_suite, youtube.watch_url("plain2160"), quality=quality, format=container)
    assert (done["got_quality"], done["got_format"], done["title"]) == (
        quality,
        container,
        "A moving picture",
    )
    found = tools.probe(save_file(youtube_suite, done["files"][0], tmp_path))
    assert (found.height, found.codecs["audio"]) == (int(quality[:-1]), sound)
    assert found.codecs["video"] in pictures


@pytest.mark.parametrize(
    ("form", "codec"), [("mp3", "mp3"), ("m4a", "aac"), ("opus", "opus"), ("flac", "flac")]
)
def test_sounds(youtube_suite: Suite, youtube: YouTube, tmp_path: Path, form: str, codec: str) -> None:
    """Sound comes alone in each format."""
    done = download(youtube_suite, youtube.watch_url("plain1080"), audio_only=True, format=form)
    assert tools.probe(save_file(youtube_suite, done["files"][0], tmp_path)).codecs == {"audio": codec}


@pytest.mark.parametrize(("name", "kinds"), [("talk", "manual"), ("asronly", "auto")])
def test_transcripts(youtube_suite: Suite, youtube: YouTube, name: str, kinds: str) -> None:
    """What is said comes as text in each format, line by line, without the video."""
    formats = ["srt", "vtt", "txt", "json"]
    wishes = {"subtitles_only": True, "subtitle_formats": formats, "subtitle_kinds": kinds}
    done = download(youtube_suite, youtube.watch_url(name), subtitle_languages=["en"], **wishes)
    texts = {
        file["name"].rpartition(".")[2]: youtube_suite.http.get(file["url"]).text for file in done["files"]
    }
    assert set(texts) == set(formats)
    assert {text.count("this is line ") for text in texts.values()} == {20}
    assert len(json.loads(texts["json"])) == 20
