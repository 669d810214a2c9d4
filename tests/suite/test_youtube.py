"""YouTube downloads of video, audio and transcripts in each format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import download, save_file
from tests.suite.suite import Suite


@pytest.mark.parametrize(
    ("quality", "container", "video_codecs", "audio_codec"),
    [
        ("2160p", "mp4", {"h264", "av1"}, "aac"),
        ("1080p", "webm", {"vp9", "av1"}, "opus"),
        ("1080p", "mkv", {"h264", "vp9", "av1"}, "opus"),
    ],
)
def test_video(
    youtube_suite: Suite,
    youtube: YouTube,
    tmp_path: Path,
    quality: str,
    container: str,
    video_codecs: set[str],
    audio_codec: str,
) -> None:
    """A video has the requested quality and container."""
    completed = download(youtube_suite, youtube.watch_url("plain2160"), quality=quality, format=container)
    assert (completed["got_quality"], completed["got_format"], completed["title"]) == (
        quality,
        container,
        "A moving picture",
    )
    probe = tools.probe(save_file(youtube_suite, completed["files"][0], tmp_path))
    assert (probe.height, probe.codecs["audio"]) == (int(quality[:-1]), audio_codec)
    assert probe.codecs["video"] in video_codecs


@pytest.mark.parametrize(
    ("format_", "codec"), [("mp3", "mp3"), ("m4a", "aac"), ("opus", "opus"), ("flac", "flac")]
)
def test_audio(youtube_suite: Suite, youtube: YouTube, tmp_path: Path, format_: str, codec: str) -> None:
    """Audio is extracted in each format."""
    completed = download(youtube_suite, youtube.watch_url("plain1080"), audio_only=True, format=format_)
    assert tools.probe(save_file(youtube_suite, completed["files"][0], tmp_path)).codecs == {"audio": codec}


@pytest.mark.parametrize(("name", "kinds"), [("talk", "manual"), ("asronly", "auto")])
def test_transcripts(youtube_suite: Suite, youtube: YouTube, name: str, kinds: str) -> None:
    """A transcript has each line once in each format, without the video."""
    formats = ["srt", "vtt", "txt", "json"]
    options = {"subtitles_only": True, "subtitle_formats": formats, "subtitle_kinds": kinds}
    completed = download(youtube_suite, youtube.watch_url(name), subtitle_languages=["en"], **options)
    texts = {
        Path(file["name"]).suffix[1:]: youtube_suite.http.get(file["url"]).text for file in completed["files"]
    }
    assert set(texts) == set(formats)
    assert {text.count("this is line ") for text in texts.values()} == {20}
    assert len(json.loads(texts["json"])) == 20
