"""Table of all videos of the stand-in with their faults."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tests.sites.faults import NO_FAULTS, Faults
from tests.sites.youtube.streams import AV1, AVC_UP_TO_1080, CLIP, HEAVY, TALK, VP9, Content

AUDIO = (140, 251)
BASIC = (18, 134, *AUDIO)
CHAPTERS = (("Beginning", 0), ("Middle", 2), ("End", 4))


@dataclass(frozen=True)
class Playability:
    """YouTube's playability status with its messages to the viewer."""

    status: str = "OK"
    reason: str = ""
    subreason: str = ""


PLAYABLE = Playability()


@dataclass(frozen=True)
class Video:
    """A video: what it has, then what is wrong with it."""

    #: At most 11 characters of ``[0-9A-Za-z-]``; at most 9 if it has copies.
    name: str
    title: str = "A moving picture"
    itags: tuple[int, ...] = BASIC
    content: Content = CLIP
    #: Audio languages: the original first; the second one, if any, is the default.
    languages: tuple[str, ...] = ("en",)
    #: Languages of the manual subtitles.
    subtitles: tuple[str, ...] = ("en", "de")
    #: Language of the automatic captions; empty: none.
    asr_language: str = "en"
    chapters: tuple[tuple[str, int], ...] = CHAPTERS
    #: Whether there are storyboard images, which yt-dlp lists as a format.
    storyboard: bool = True
    #: Seconds that a broadcast lasts from its first request; 0: no broadcast.
    live: int = 0
    #: First and last request for a broadcast's playlist that fails, counted from 0.
    playlist_outage: tuple[int, int] = (0, -1)
    #: Number of a broadcast's segment that is listed and does not exist; -1: none.
    missing_segment: int = -1
    #: Seconds from the first request until the event starts.
    starts_after: int = 0
    #: Seconds of the advertisement before the video, in which its files must not be fetched.
    preroll_seconds: int = 0
    #: Whether its URLs have a signature and an ``n`` that the player's JavaScript has to solve.
    signed: bool = False
    #: Whether the player's JavaScript can be solved.
    solvable: bool = True
    #: SponsorBlock segments: category, start and end in seconds.
    sponsors: tuple[tuple[str, float, float], ...] = ()

    #: Number of a copy of the video, which has its own counts and times of requests.
    copy: str = ""
    playability: Playability = PLAYABLE
    #: Whether the embedded player plays it although others do not.
    playable_embedded: bool = False
    #: Whether a signed-in viewer can play it.
    playable_signed_in: bool = False
    #: Whether no client gets URLs, because streams need YouTube's SABR protocol.
    sabr_only: bool = False
    drm: bool = False
    captcha: bool = False
    #: Whether the API describes another video than the requested one.
    wrong_id: bool = False
    countries: tuple[str, ...] = ()
    page: Faults = NO_FAULTS
    player: Faults = NO_FAULTS
    captions: Faults = NO_FAULTS
    media: Faults = NO_FAULTS
    #: Whether SponsorBlock fails for this video.
    sponsors_fail: bool = False
    #: The first URLs are refused from this byte on; those of a new extraction work.
    expires_from: int | None = None

    @property
    def id(self) -> str:
        """Id of eleven characters, e.g. ``plain1080__``; of a copy ``live______2``."""
        return self.name.ljust(11 - len(self.copy), "_") + self.copy


def find_video(video_id: str) -> Video | None:
    """Return the video with *video_id*; None if there is no such video."""
    if re.fullmatch(r"item\d{7}", video_id):
        return Video(video_id, title=f"Item {int(video_id[4:])}")
    match = re.fullmatch(r"([0-9A-Za-z-]+)(?:_+(\d*))?", video_id)
    if match is None or len(video_id) != 11 or match[1] not in _BY_NAME:
        return None
    return replace(_BY_NAME[match[1]], copy=match[2] or "")


def get_video(name: str, copy: int = 0) -> Video:
    """Return the video *name*, or its *copy* of that number. Raises KeyError."""
    return replace(_BY_NAME[name], copy=str(copy or ""))


def all_videos() -> list[Video]:
    """Return all videos, without copies."""
    return list(_BY_NAME.values())


def _unplayable(reason: str, subreason: str = "", status: str = "UNPLAYABLE") -> Playability:
    return Playability(status, reason, subreason)


def _login_required(reason: str, subreason: str = "") -> Playability:
    return Playability("LOGIN_REQUIRED", reason, subreason)


def _removed(subreason: str) -> Playability:
    return Playability("ERROR", "Video unavailable", subreason)


_PLAYABLE = [
    Video("plain360"),
    Video("plain1080", itags=(18, *AVC_UP_TO_1080, 243, 247, 248, *AUDIO)),
    Video("plain2160", itags=(18, *AVC_UP_TO_1080, *VP9, *AV1, 139, 140, 249, 250, 251)),
    Video("avc2160", itags=(*AVC_UP_TO_1080, 264, 266, 140)),
    Video("fps60", itags=(18, 136, 298, 299, 302, *AUDIO)),
    Video("hdr1080", itags=(18, 136, 137, 398, 399, 698, 699, *AUDIO)),
    Video("low480", itags=(18, 160, 133, 134, 135, 244, *AUDIO)),
    Video("dubbed", itags=(18, 134, 136, 243, 247, *AUDIO), languages=("de", "en", "fr"), asr_language="de"),
    Video("talk", title="A talk of twenty lines", itags=(18, 134, *AUDIO), content=TALK, chapters=()),
    Video("asronly", itags=(18, 134, *AUDIO), content=TALK, subtitles=(), chapters=()),
    Video("nocaptions", subtitles=(), asr_language=""),
    Video("heavy1080", itags=(137, 140), content=HEAVY),
    Video("preroll", preroll_seconds=2),
    Video("signed", signed=True),
    Video("embeddable", playability=_login_required("Sign in to confirm your age"), playable_embedded=True),
    Video("sponsored", sponsors=(("sponsor", 1.0, 2.0), ("sponsor", 3.5, 4.5), ("intro", 0.0, 0.5))),
    Video("live", live=4),
    Video("livelong", live=3600),
    Video("livegap", live=3600, playlist_outage=(3, 8), missing_segment=4),
    Video("premiere", starts_after=4),
]

_TITLES = [
    Video("t-slashes", title="../../etc/passwd /tmp/x\\..\\y"),
    Video("t-shell", title="$(touch /tmp/owned) `id` ; rm -rf ~ | cat && %(title)s"),
    Video("t-rtl", title="gpj.\u202efdp \u200bzero\u2066width\u2069"),
    Video("t-long", title="ü" * 300),
    Video("t-html", title="<script>alert(1)</script>\" onload='x' & 日本語 🎬"),
    Video("t-ext", title="holiday.mp4.exe"),
]

_REFUSED = [
    Video(
        "private",
        playability=_login_required("Private video", "Sign in if you've been granted access to this video"),
        playable_signed_in=True,
    ),
    Video(
        "members",
        playability=_unplayable(
            "Join this channel to get access to members-only content like this video, and other perks."
        ),
        playable_signed_in=True,
    ),
    Video("premium", playability=_unplayable("This video is only available to Music Premium members")),
    Video(
        "agegate",
        playability=_login_required(
            "Sign in to confirm your age", "This video may be inappropriate for some users."
        ),
        playable_signed_in=True,
    ),
    Video(
        "geo",
        playability=_unplayable(
            "Video unavailable", "The uploader has not made this video available in your country"
        ),
        countries=("DE", "FR"),
    ),
    Video(
        "botcheck",
        playability=_login_required(
            "Sign in to confirm you’re not a bot", "This helps protect our community. Learn more"
        ),
    ),
    Video("captcha", playability=_login_required("Complete the check below to continue"), captcha=True),
    Video("wrongid", wrong_id=True),
    Video("guestquota", playability=_unplayable("This content isn't available, try again later.")),
    Video("removed", playability=_removed("This video has been removed by the uploader")),
    Video("unavailable", playability=_removed("This video is unavailable")),
    Video(
        "terminated",
        playability=_removed(
            "This video is no longer available because the YouTube account associated with this video has"
            " been terminated."
        ),
    ),
    Video(
        "copyright",
        playability=_unplayable(
            "Video unavailable",
            "This video contains content from Stand-in Films, who has blocked it on copyright grounds",
        ),
    ),
    Video("drm", drm=True, storyboard=False),
    Video("drm-images", drm=True),
    Video("upcoming", starts_after=7200),
]

_BROKEN = [
    Video("player429", page=Faults(fail=429), player=Faults(fail=429)),
    Video("player403", player=Faults(fail=403)),
    Video("player500", player=Faults(fail=500)),
    Video("player503", player=Faults(fail=503)),
    Video("flaky-api", player=Faults(fail=503, times=2)),
    Video("sabr", sabr_only=True),
    Video("sabr-bare", sabr_only=True, storyboard=False),
    Video("unsolved", signed=True, solvable=False),
    Video("media403", media=Faults(fail=403)),
    Video("expired", expires_from=0),
    Video("expiring", itags=(137, 140), content=HEAVY, expires_from=5_000_000),
    Video("flaky503", media=Faults(fail=503, times=2)),
    Video("reset", media=Faults(reset=50_000, times=2)),
    Video("stall", media=Faults(stall=50_000)),
    Video("drip", media=Faults(rate=1)),
    Video("slow5", itags=(137, 140), content=HEAVY, media=Faults(rate=5_000_000)),
    Video("slow1", itags=(137, 140), content=HEAVY, media=Faults(rate=1_000_000)),
    Video("subs429", captions=Faults(fail=429)),
    Video("sponsors503", sponsors_fail=True),
]

_BY_NAME = {video.name: video for video in [*_PLAYABLE, *_TITLES, *_REFUSED, *_BROKEN]}
