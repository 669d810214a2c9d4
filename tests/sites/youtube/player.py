"""The player response: YouTube's description of a video for one client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from tests.sites.youtube.captions import LANGUAGES
from tests.sites.youtube.catalogue import Playability, Video
from tests.sites.youtube.formats import streaming_data
from tests.sites.youtube.library import Library
from tests.sites.youtube.state import WEB_CLIENTS, VideoView

CHANNEL_ID = "UCreelhaul-standin-00001"
CHANNEL = "Reelhaul"
HANDLE = "@reelhaul"
#: 2026-01-02T03:04:05Z.
PUBLISHED = "2026-01-01T19:04:05-08:00"


def player_response(view: VideoView, library: Library) -> dict[str, Any]:
    """Return the response of ``/youtubei/v1/player`` and create the media that it names."""
    video, playability = view.video, view.playability
    response: dict[str, Any] = {
        "responseContext": {"visitorData": "standin"},
        "playabilityStatus": _status(view, playability),
        "videoDetails": _details(view),
    }
    if view.client in WEB_CLIENTS:
        response["microformat"] = {"playerMicroformatRenderer": _microformat(view)}
    if playability.status != "OK":
        return response
    response["streamingData"] = streaming_data(view, library)
    response["captions"] = {"playerCaptionsTracklistRenderer": _captions(view)}
    if video.storyboard:
        response["storyboards"] = {"playerStoryboardSpecRenderer": {"spec": _storyboard(video)}}
    if video.preroll_seconds:
        response["adPlacements"] = [_advertisement(video.preroll_seconds)]
    return response


def _status(view: VideoView, playability: Playability) -> dict[str, Any]:
    status: dict[str, Any] = {"status": playability.status, "playableInEmbed": True}
    if playability.reason:
        status["reason"] = playability.reason
        message = {"reason": {"simpleText": playability.reason}}
        if playability.subreason:
            message["subreason"] = {"simpleText": playability.subreason}
        screen: dict[str, Any] = {"playerCaptchaViewModel": {"text": "standin"}} if view.video.captcha else {}
        status["errorScreen"] = {"playerErrorMessageRenderer": message, **screen}
    return status


def _details(view: VideoView) -> dict[str, Any]:
    video = view.video
    details = {
        "videoId": "anotherOne_" if video.wrong_id else video.id,
        "title": video.title,
        "lengthSeconds": "0" if video.live else str(video.content.seconds),
        "keywords": ["test", "picture"],
        "channelId": CHANNEL_ID,
        "shortDescription": f"{video.title}, made for Reelhaul.",
        "viewCount": "1234567",
        "author": CHANNEL,
        "isPrivate": video.name == "private",
        "isLiveContent": bool(video.live or video.starts_after),
        "thumbnail": {"thumbnails": [thumbnail(video.id)]},
    }
    if video.live or video.starts_after:
        details |= {"isLive": view.is_live, "isUpcoming": view.starts_in > 0}
    return details


def thumbnail(video_id: str) -> dict[str, Any]:
    """Return the thumbnail that every video has."""
    return {"url": f"https://i.ytimg.com/vi/{video_id}/hqdefault.jpg", "width": 480, "height": 360}


def _microformat(view: VideoView) -> dict[str, Any]:
    video = view.video
    fields: dict[str, Any] = {
        "title": {"simpleText": video.title},
        "lengthSeconds": str(video.content.seconds),
        "ownerProfileUrl": f"http://www.youtube.com/{HANDLE}",
        "externalChannelId": CHANNEL_ID,
        "isFamilySafe": "your age" not in video.playability.reason,
        "isUnlisted": False,
        "viewCount": "1234567",
        "category": "Science & Technology",
        "publishDate": PUBLISHED,
        "uploadDate": PUBLISHED,
        "ownerChannelName": CHANNEL,
    }
    if video.countries:
        fields["availableCountries"] = list(video.countries)
    if video.live or video.starts_after:
        begins = datetime.now(UTC) + timedelta(seconds=view.starts_in)
        start = begins.isoformat(timespec="seconds") if view.starts_in else PUBLISHED
        fields["liveBroadcastDetails"] = {"isLiveNow": view.is_live, "startTimestamp": start}
    return fields


def _captions(view: VideoView) -> dict[str, Any]:
    video = view.video
    tracks = [_track(video, language, "") for language in video.subtitles]
    if video.asr_language:
        tracks.append(_track(video, video.asr_language, "asr"))
    captions: dict[str, Any] = {"captionTracks": tracks}
    if view.client in WEB_CLIENTS:
        captions["translationLanguages"] = [
            {"languageCode": code, "languageName": {"simpleText": name}} for code, name in LANGUAGES.items()
        ]
    return captions


def _track(video: Video, language: str, kind: str) -> dict[str, Any]:
    query = {"v": video.id, "lang": language} | ({"kind": kind} if kind else {})
    name = LANGUAGES[language] + (" (auto-generated)" if kind else "")
    track = {
        "baseUrl": f"https://www.youtube.com/api/timedtext?{urlencode(query)}",
        "name": {"simpleText": name},
        "vssId": f"{'a' if kind else ''}.{language}",
        "languageCode": language,
        "isTranslatable": True,
    }
    return track | ({"kind": kind} if kind else {})


def _storyboard(video: Video) -> str:
    address = f"https://i.ytimg.com/sb/{video.id}/storyboard3_L$L/$N.jpg?sqp=standin"
    return f"{address}|48#27#6#3#2#0#default#rs$standin"


def _advertisement(seconds: int) -> dict[str, Any]:
    config = {"adPlacementConfig": {"kind": "AD_PLACEMENT_KIND_START"}}
    spot = {"playerVars": f"length_seconds={seconds + 10}", "skipOffsetMilliseconds": seconds * 1000}
    return {"adPlacementRenderer": {"config": config, "renderer": {"instreamVideoAdRenderer": spot}}}
