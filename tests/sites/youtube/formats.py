"""Streaming data: the part of a player response that lists the streams and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.sites.youtube import javascript
from tests.sites.youtube.captions import LANGUAGES
from tests.sites.youtube.catalogue import Video
from tests.sites.youtube.library import Library
from tests.sites.youtube.showing import WEB, Showing
from tests.sites.youtube.streams import STREAMS, Programme, Stream

MEDIA_HOST = "rr1---sn-standin.googlevideo.com"
MANIFEST_HOST = "manifest.googlevideo.com"
# When the files were made, in microseconds: always the same, so that URLs can be compared.
_MODIFIED = "1767323045000000"


def streaming_data(showing: Showing, library: Library) -> dict[str, Any]:
    """The streams of a video that plays, with the URLs of its files or of its broadcast."""
    video = showing.video
    if showing.on_air:
        path = f"api/manifest/hls_variant/id/{video.id}/source/yt_live_broadcast/file/index.m3u8"
        return {"expiresInSeconds": "21540", "hlsManifestUrl": f"https://{MANIFEST_HOST}/{path}"}
    both: list[dict[str, Any]] = []
    adaptive: list[dict[str, Any]] = []
    for stream, programme, language in streams(video):
        told = _format(showing, stream, library.file(stream, programme, language), language)
        (both if stream.height and stream.sound else adaptive).append(told)
    licences = {"licenseInfos": [{"drmFamily": "WIDEVINE"}]} if video.drm else {}
    return {"expiresInSeconds": "21540", "formats": both, "adaptiveFormats": adaptive, **licences}


def streams(video: Video) -> list[tuple[Stream, Programme, str]]:
    """What *video* is made of, as ``Library.file`` takes it: sound alone once for each language."""
    return [
        (stream, video.programme, language)
        for stream in (STREAMS[itag] for itag in video.itags)
        for language in (video.languages if stream.sound and not stream.height else video.languages[:1])
    ]


def _format(showing: Showing, stream: Stream, file: Path, language: str) -> dict[str, Any]:
    video, size, seconds = showing.video, file.stat().st_size, showing.video.programme.seconds
    told: dict[str, Any] = {
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
        rate = min(stream.fps, video.programme.fps)
        told |= {"width": stream.width, "height": stream.height, "fps": rate, "qualityLabel": stream.label}
    if stream.sound:
        told |= {"audioQuality": _audio_quality(stream), "audioSampleRate": "48000", "audioChannels": 2}
    if stream.sound and not stream.height and len(video.languages) > 1:
        told["audioTrack"] = _audio_track(video, language)
    if video.drm:
        told["drmFamilies"] = ["WIDEVINE"]
    told |= {} if showing.client in WEB or video.sabr_only else _links(showing, stream, size, language)
    return told


def _links(showing: Showing, stream: Stream, size: int, language: str) -> dict[str, str]:
    """Where the file is: a plain URL, or one whose signature the player must unscramble."""
    video = showing.video
    query = {
        "expire": "2082758400",
        "ei": str(showing.serial),
        "id": video.id,
        "itag": str(stream.itag),
        "source": "youtube",
        "mime": stream.mime.partition(";")[0],
        "clen": str(size),
        "dur": f"{video.programme.seconds}.000",
        "lmt": _MODIFIED,
        "c": showing.client,
        "ratebypass": "yes",
    }
    if stream.sound:
        query["xtags"] = f"lang={language}"
    if not video.signed:
        return {"url": f"https://{MEDIA_HOST}/videoplayback?{urlencode(query)}"}
    query["n"] = javascript.scrambled(javascript.challenge(video.id, showing.serial))
    address = f"https://{MEDIA_HOST}/videoplayback?{urlencode(query)}"
    signature = javascript.scrambled(javascript.signature(video.id, showing.serial))
    return {"signatureCipher": f"s={quote(signature)}&sp=sig&url={quote(address, safe='')}"}


def _audio_quality(stream: Stream) -> str:
    return "AUDIO_QUALITY_LOW" if stream.sound < 100_000 else "AUDIO_QUALITY_MEDIUM"


def _audio_track(video: Video, language: str) -> dict[str, Any]:
    original, default = video.languages[0], video.languages[1]
    name = LANGUAGES[language] + (" original" if language == original else "")
    kind = 4 if language == original else 3
    return {"displayName": name, "id": f"{language}.{kind}", "audioIsDefault": language == default}
