"""The player response: what YouTube's API tells a player of a video, by the client that asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from tests.sites.youtube.captions import LANGUAGES
from tests.sites.youtube.catalogue import Playability, Video
from tests.sites.youtube.formats import streaming_data
from tests.sites.youtube.library import Library
from tests.sites.youtube.showing import WEB, Showing

CHANNEL_ID = "UCreelhaul-standin-00001"
CHANNEL = "Reelhaul"
HANDLE = "@reelhaul"
#: 2026-01-02T03:04:05Z.
PUBLISHED = "2026-01-01T19:04:05-08:00"


def response(showing: Showing, library: Library) -> dict[str, Any]:
    """The player response, as ``/youtubei/v1/player`` gives it. Makes the media that it tells of."""
    video, playability = showing.video, showing.playability
    told: dict[str, Any] = {
        "responseContext": {"visitorData": "standin"},
        "playabilityStatus": _status(showing, playability),
        "videoDetails": _details(showing),
    }
    if showing.client in WEB:
        told["microformat"] = {"playerMicroformatRenderer": _microformat(showing)}
    if playability.status != "OK":
        return told
    told["streamingData"] = streaming_data(showing, library)
    told["captions"] = {"playerCaptionsTracklistRenderer": _captions(showing)}
    if video.storyboard:
        told["storyboards"] = {"playerStoryboardSpecRenderer": {"spec": _storyboard(video)}}
    if video.advertisement:
        told["adPlacements"] = [_advertisement(video.advertisement)]
    return told


def _status(showing: Showing, playability: Playability) -> dict[str, Any]:
    status: dict[str, Any] = {"status": playability.status, "playableInEmbed": True}
    if playability.reason:
        status["reason"] = playability.reason
        words = {"reason": {"simpleText": playability.reason}}
        if playability.subreason:
            words["subreason"] = {"simpleText": playability.subreason}
        screen: dict[str, Any] = (
            {"playerCaptchaViewModel": {"text": "standin"}} if showing.video.captcha else {}
        )
        status["errorScreen"] = {"playerErrorMessageRenderer": words, **screen}
    return status


def _details(showing: Showing) -> dict[str, Any]:
    video = showing.video
    details = {
        "videoId": "anotherOne_" if video.wrong_id else video.id,
        "title": video.title,
        "lengthSeconds": "0" if video.live else str(video.programme.seconds),
        "keywords": ["test", "picture"],
        "channelId": CHANNEL_ID,
        "shortDescription": f"{video.title}, made for Reelhaul.",
        "viewCount": "1234567",
        "author": CHANNEL,
        "isPrivate": video.name == "private",
        "isLiveContent": bool(video.live or video.begins_after),
        "thumbnail": {"thumbnails": [thumbnail(video.id)]},
    }
    if video.live or video.begins_after:
        details |= {"isLive": showing.on_air, "isUpcoming": showing.begins_in > 0}
    return details


def thumbnail(video_id: str) -> dict[str, Any]:
    """The one thumbnail that every video is sure to have."""
    return {"url": f"https://i.ytimg.com/vi/{video_id}/hqdefault.jpg", "width": 480, "height": 360}


def _microformat(showing: Showing) -> dict[str, Any]:
    video = showing.video
    shown: dict[str, Any] = {
        "title": {"simpleText": video.title},
        "lengthSeconds": str(video.programme.seconds),
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
        shown["availableCountries"] = list(video.countries)
    if video.live or video.begins_after:
        begins = datetime.now(UTC) + timedelta(seconds=showing.begins_in)
        start = begins.isoformat(timespec="seconds") if showing.begins_in else PUBLISHED
        shown["liveBroadcastDetails"] = {"isLiveNow": showing.on_air, "startTimestamp": start}
    return shown


def _captions(showing: Showing) -> dict[str, Any]:
    video = showing.video
    tracks = [_track(video, language, "") for language in video.subtitles]
    if video.spoken:
        tracks.append(_track(video, video.spoken, "asr"))
    told: dict[str, Any] = {"captionTracks": tracks}
    if showing.client in WEB:
        told["translationLanguages"] = [
            {"languageCode": code, "languageName": {"simpleText": name}} for code, name in LANGUAGES.items()
        ]
    return told


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
