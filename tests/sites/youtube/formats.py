"""Streaming data: the part of a player response that lists the streams and their URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.sites.youtube import javascript
from tests.sites.youtube.captions import LANGUAGES
from tests.sites.youtube.catalogue import Video
from tests.sites.youtube.library import Library
from tests.sites.youtube.state import WEB_CLIENTS, VideoView
from tests.sites.youtube.streams import STREAMS, Content, Stream

MEDIA_HOST = "rr1---sn-standin.googlevideo.com"
MANIFEST_HOST = "manifest.googlevideo.com"
# Microseconds since the epoch; constant, so that URLs can be compared.
_MODIFIED = "1767323045000000"


def streaming_data(view: VideoView, library: Library) -> dict[str, Any]:
    """Return the streaming data of a playable video: URLs of its files, or of its broadcast."""
    video = view.video
    if view.is_live:
        path = f"api/manifest/hls_variant/id/{video.id}/source/yt_live_broadcast/file/index.m3u8"
        return {"expiresInSeconds": "21540", "hlsManifestUrl": f"https://{MANIFEST_HOST}/{path}"}
    muxed: list[dict[str, Any]] = []
    adaptive: list[dict[str, Any]] = []
    for stream, content, language in streams(video):
        item = _format(view, stream, library.file(stream, content, language), language)
        (muxed if stream.height and stream.audio_bitrate else adaptive).append(item)
    licences = {"licenseInfos": [{"drmFamily": "WIDEVINE"}]} if video.drm else {}
    return {"expiresInSeconds": "21540", "formats": muxed, "adaptiveFormats": adaptive, **licences}


def streams(video: Video) -> list[tuple[Stream, Content, str]]:
    """Return the streams of *video* as arguments of ``Library.file``: audio once for each language."""
    return [
        (stream, video.content, language)
        for stream in (STREAMS[itag] for itag in video.itags)
        for language in (
            video.languages if stream.audio_bitrate and not stream.height else video.languages[:1]
        )
    ]


def _format(view: VideoView, stream: Stream, file: Path, language: str) -> dict[str, Any]:
    video, size, seconds = view.video, file.stat().st_size, view.video.content.seconds
    item: dict[str, Any] = {
        "itag": stream.itag,
        "mimeType": stream.mime,
        "bitrate": size * 8 // seconds,
        "averageBitrate": size * 8 // seconds,
        "contentLength": str(size),
        "approxDurationMs": str(seconds * 1000),
        "lastModified": _MODIFIED,
        "quality": stream.quality,
        "projectionType": "RECTANGULAR",
    }
    if stream.height:
        rate = min(stream.fps, video.content.fps)
        item |= {"width": stream.width, "height": stream.height, "fps": rate, "qualityLabel": stream.label}
    if stream.audio_bitrate:
        item |= {"audioQuality": _audio_quality(stream), "audioSampleRate": "48000", "audioChannels": 2}
    if stream.audio_bitrate and not stream.height and len(video.languages) > 1:
        item["audioTrack"] = _audio_track(video, language)
    if video.drm:
        item["drmFamilies"] = ["WIDEVINE"]
    item |= {} if view.client in WEB_CLIENTS or video.sabr_only else _urls(view, stream, size, language)
    return item


def _urls(view: VideoView, stream: Stream, size: int, language: str) -> dict[str, str]:
    """Return the fields with the file's URL, plain or with a signature that the player must unscramble."""
    video = view.video
    query = {
        "expire": "2082758400",
        "ei": str(view.serial),
        "id": video.id,
        "itag": str(stream.itag),
        "source": "youtube",
        "mime": stream.mime.partition(";")[0],
        "clen": str(size),
        "dur": f"{video.content.seconds}.000",
        "lmt": _MODIFIED,
        "c": view.client,
        "ratebypass": "yes",
    }
    if stream.audio_bitrate:
        query["xtags"] = f"lang={language}"
    if not video.signed:
        return {"url": f"https://{MEDIA_HOST}/videoplayback?{urlencode(query)}"}
    query["n"] = javascript.scramble(javascript.n_parameter(video.id, view.serial))
    url = f"https://{MEDIA_HOST}/videoplayback?{urlencode(query)}"
    signature = javascript.scramble(javascript.signature(video.id, view.serial))
    return {"signatureCipher": f"s={quote(signature)}&sp=sig&url={quote(url, safe='')}"}


def _audio_quality(stream: Stream) -> str:
    return "AUDIO_QUALITY_LOW" if stream.audio_bitrate < 100_000 else "AUDIO_QUALITY_MEDIUM"


def _audio_track(video: Video, language: str) -> dict[str, Any]:
    original, default = video.languages[0], video.languages[1]
    name = LANGUAGES[language] + (" original" if language == original else "")
    kind = 4 if language == original else 3
    return {"displayName": name, "id": f"{language}.{kind}", "audioIsDefault": language == default}
