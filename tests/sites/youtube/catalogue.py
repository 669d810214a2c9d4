"""Every video of the stand-in, in one table: what it is, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tests.sites.faults import WELL, Faults
from tests.sites.youtube.streams import AV1, AVC_UP_TO_1080, CLIP, HEAVY, TALK, VP9, Programme

SOUND = (140, 251)
BASIC = (18, 134, *SOUND)
CHAPTERS = (("Beginning", 0), ("Middle", 2), ("End", 4))


@dataclass(frozen=True)
class Playability:
    """Whether it plays: YouTube's status, and its words to the viewer."""

    status: str = "OK"
    reason: str = ""
    subreason: str = ""


PLAYS = Playability()


@dataclass(frozen=True)
class Video:
    """One video. Its fields say what it has; the last of them what is wrong with it."""

    #: At most 11 characters of ``[0-9A-Za-z-]``, or 9 where it can have copies.
    name: str
    title: str = "A moving picture"
    itags: tuple[int, ...] = BASIC
    programme: Programme = CLIP
    #: The sound's languages; the first is the original, and the second, if any, the default.
    languages: tuple[str, ...] = ("en",)
    #: Languages of the subtitles that people wrote.
    subtitles: tuple[str, ...] = ("en", "de")
    #: What the automatic captions heard; empty: there are none.
    spoken: str = "en"
    chapters: tuple[tuple[str, int], ...] = CHAPTERS
    #: There are small pictures for the seek bar, which pass for a format of their own.
    storyboard: bool = True
    #: Seconds that a broadcast lasts, from when it is first asked for; 0: it is none.
    live: int = 0
    #: Of a broadcast: the first and last request for its playlist that are refused, counted from 0.
    away: tuple[int, int] = (0, -1)
    #: Of a broadcast: the number of a segment that is announced and never there.
    gap: int = -1
    #: Seconds until it begins, from when it is first asked for.
    begins_after: int = 0
    #: Seconds of the advertisement before it: its files are not to be fetched sooner.
    advertisement: int = 0
    #: Its URLs carry a signature and an ``n`` to be solved by the player's JavaScript.
    signed: bool = False
    #: The player's JavaScript can be solved.
    solvable: bool = True
    #: What SponsorBlock's users marked: category, start and end in seconds.
    sponsors: tuple[tuple[str, float, float], ...] = ()

    #: A number that makes another video of the same: what began or passed with one did not with the other.
    copy: str = ""
    playability: Playability = PLAYS
    #: The embedded player shows it although others do not.
    embed_opens: bool = False
    #: A signed-in viewer may see it.
    member_opens: bool = False
    #: No client is told URLs: streams come by YouTube's own protocol only.
    sabr_only: bool = False
    drm: bool = False
    captcha: bool = False
    #: The API speaks of another video than the one asked for.
    wrong_id: bool = False
    countries: tuple[str, ...] = ()
    page: Faults = WELL
    player: Faults = WELL
    captions: Faults = WELL
    media: Faults = WELL
    #: SponsorBlock is out of order when it is asked about it.
    sponsors_fail: bool = False
    #: From this byte on, the first URLs handed out are refused; those of a new extraction are good.
    expires_from: int | None = None

    @property
    def id(self) -> str:
        """Eleven characters, e.g. ``plain1080__``; of a copy ``live______2``."""
        return self.name.ljust(11 - len(self.copy), "_") + self.copy


def find(video_id: str) -> Video | None:
    """The video with *video_id*; None where there is no such."""
    if re.fullmatch(r"item\d{7}", video_id):
        return Video(video_id, title=f"Item {int(video_id[4:])}")
    found = re.fullmatch(r"([0-9A-Za-z-]+)(?:_+(\d*))?", video_id)
    if found is None or len(video_id) != 11 or found[1] not in _BY_NAME:
        return None
    return replace(_BY_NAME[found[1]], copy=found[2] or "")


def named(name: str, copy: int = 0) -> Video:
    """The video called *name*, or a *copy* of it. Raises KeyError."""
    return replace(_BY_NAME[name], copy=str(copy or ""))


def everything() -> list[Video]:
    """Every video, without copies."""
    return list(_BY_NAME.values())


def _unplayable(reason: str, subreason: str = "", status: str = "UNPLAYABLE") -> Playability:
    return Playability(status, reason, subreason)


def _login(reason: str, subreason: str = "") -> Playability:
    return Playability("LOGIN_REQUIRED", reason, subreason)


def _gone(subreason: str) -> Playability:
    return Playability("ERROR", "Video unavailable", subreason)


_WELL = [
    Video("plain360"),
    Video("plain1080", itags=(18, *AVC_UP_TO_1080, 243, 247, 248, *SOUND)),
    Video("plain2160", itags=(18, *AVC_UP_TO_1080, *VP9, *AV1, 139, 140, 249, 250, 251)),
    Video("avc2160", itags=(*AVC_UP_TO_1080, 264, 266, 140)),
    Video("fps60", itags=(18, 136, 298, 299, 302, *SOUND)),
    Video("hdr1080", itags=(18, 136, 137, 398, 399, 698, 699, *SOUND)),
    Video("low480", itags=(18, 160, 133, 134, 135, 244, *SOUND)),
    Video("dubbed", itags=(18, 134, 136, 243, 247, *SOUND), languages=("de", "en", "fr"), spoken="de"),
    Video("talk", title="A talk of twenty lines", itags=(18, 134, *SOUND), programme=TALK, chapters=()),
    Video("asronly", itags=(18, 134, *SOUND), programme=TALK, subtitles=(), chapters=()),
    Video("nocaptions", subtitles=(), spoken=""),
    Video("heavy1080", itags=(137, 140), programme=HEAVY),
    Video("preroll", advertisement=2),
    Video("signed", signed=True),
    Video("embeddable", playability=_login("Sign in to confirm your age"), embed_opens=True),
    Video("sponsored", sponsors=(("sponsor", 1.0, 2.0), ("sponsor", 3.5, 4.5), ("intro", 0.0, 0.5))),
    Video("live", live=4),
    Video("livelong", live=3600),
    Video("livegap", live=3600, away=(3, 8), gap=4),
    Video("premiere", begins_after=4),
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
        playability=_login("Private video", "Sign in if you've been granted access to this video"),
        member_opens=True,
    ),
    Video(
        "members",
        playability=_unplayable(
            "Join this channel to get access to members-only content like this video, and other perks."
        ),
        member_opens=True,
    ),
    Video("premium", playability=_unplayable("This video is only available to Music Premium members")),
    Video(
        "agegate",
        playability=_login("Sign in to confirm your age", "This video may be inappropriate for some users."),
        member_opens=True,
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
        playability=_login(
            "Sign in to confirm you’re not a bot", "This helps protect our community. Learn more"
        ),
    ),
    Video("captcha", playability=_login("Complete the check below to continue"), captcha=True),
    Video("wrongid", wrong_id=True),
    Video("guestquota", playability=_unplayable("This content isn't available, try again later.")),
    Video("removed", playability=_gone("This video has been removed by the uploader")),
    Video("unavailable", playability=_gone("This video is unavailable")),
    Video(
        "terminated",
        playability=_gone(
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
    Video("upcoming", begins_after=7200),
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
    Video("expiring", itags=(137, 140), programme=HEAVY, expires_from=5_000_000),
    Video("flaky503", media=Faults(fail=503, times=2)),
    Video("reset", media=Faults(reset=50_000, times=2)),
    Video("stall", media=Faults(stall=50_000)),
    Video("drip", media=Faults(rate=1)),
    Video("slow5", itags=(137, 140), programme=HEAVY, media=Faults(rate=5_000_000)),
    Video("slow1", itags=(137, 140), programme=HEAVY, media=Faults(rate=1_000_000)),
    Video("subs429", captions=Faults(fail=429)),
    Video("sponsors503", sponsors_fail=True),
]

_BY_NAME = {video.name: video for video in [*_WELL, *_TITLES, *_REFUSED, *_BROKEN]}
