"""Why a fetch failed: yt-dlp's words and the statuses seen, as one of our reasons.

The order is what was measured to tell causes apart: our own errors, the guard, the site's
words, the last HTTP status, no formats, the transport, and at last the engine itself.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import yt_dlp.version
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import GeoRestrictedError, UnsupportedError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media.ffmpeg import FfmpegFailed
from reelhaul_fetcher.ytdlp import error_patterns
from reelhaul_fetcher.ytdlp.downloader import ResponseLog
from reelhaul_fetcher.ytdlp.process.sandbox import NetworkDenied
from reelhaul_runtime.errors import ReelhaulError, error_spec

ENGINE = f"yt-dlp {yt_dlp.version.__version__}"
_ADVICE = r"; please report this issue|[.\n]\s*You might want to use|\. Use --|\. It is recommended to use"
_UPGRADE_URL = "https://github.com/yt-dlp/yt-dlp/releases"


def classified(error: BaseException, answers: ResponseLog, url: str, extractor: str) -> ReelhaulError:
    """*error*, which ended the fetch of *url*, as one of our reasons."""
    links = list(chain(error))
    for link in links:
        if isinstance(link, ReelhaulError):
            return link
    text = _plain(str(links[0]))
    host = answers.last_host or urlsplit(url).hostname or ""
    facts = {"url": url, "host": host, "extractor": extractor, "engineVersion": ENGINE}
    for rule in (_by_guard, _by_kind, _by_words, _by_status, _by_transport):
        if found := rule(links, text, answers, facts):
            return found
    return _failure(
        ErrorReason.EXTRACTOR_FAILED,
        f"{ENGINE} could not read this page: {text}; a newer version may",
        facts,
        help_url=_UPGRADE_URL,
    )


def _by_guard(
    links: list[BaseException], text: str, answers: ResponseLog, facts: dict[str, str]
) -> ReelhaulError | None:
    if any(isinstance(link, NetworkDenied) for link in links):
        return _failure(ErrorReason.URL_FORBIDDEN, "the page leads past the guard", facts)
    if answers.guard_failed:
        known = facts | {"cause": error_patterns.GUARD_CAUSES.get(answers.guard_failed, answers.guard_failed)}
        text = f"{facts['host']} cannot be reached: {answers.guard_failed}"
        return _failure(ErrorReason.UPSTREAM_UNAVAILABLE, text, known)
    if not answers.guard_refused:
        return None
    if answers.guard_refused == "byte-budget":
        return _failure(ErrorReason.MEDIA_TOO_LARGE, "more bytes came than the job may receive", facts)
    return _failure(
        ErrorReason.URL_FORBIDDEN, f"the guard refused {facts['host']}: {answers.guard_refused}", facts
    )


def _by_kind(
    links: list[BaseException], text: str, answers: ResponseLog, facts: dict[str, str]
) -> ReelhaulError | None:
    for link in links:
        if isinstance(link, UnsupportedError):
            return _failure(ErrorReason.SITE_UNSUPPORTED, "no extractor found media at this URL", facts)
        if isinstance(link, GeoRestrictedError):
            facts["region"] = ",".join(link.countries or ())
            return _failure(ErrorReason.MEDIA_GEO_BLOCKED, text, facts)
        if isinstance(link, FfmpegFailed):
            facts["step"] = "package"
            return _failure(ErrorReason.POSTPROCESSING_FAILED, f"ffmpeg failed: {text}", facts)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failure(ErrorReason.WORKER_DISK_FULL, "the worker's disk is full", facts)
        if isinstance(link, MemoryError):
            return _failure(ErrorReason.MEDIA_TOO_LARGE, "what the site sends takes too much memory", facts)
        if isinstance(link, OSError) and link.errno == errno.EFBIG:
            return _failure(ErrorReason.MEDIA_TOO_LARGE, "a file grew past the job's limit", facts)
    return None


def _by_words(
    links: list[BaseException], text: str, answers: ResponseLog, facts: dict[str, str]
) -> ReelhaulError | None:
    # HTTPError's own words ("HTTP Error 404: Not Found") are the status, not the site's.
    if any(isinstance(link, HTTPError) for link in links):
        return None
    for words, reason, known in error_patterns.WORDS:
        if re.search(words, text, re.IGNORECASE):
            if reason == ErrorReason.MEDIA_NOT_LIVE_YET:
                return not_yet(None, text)
            if reason == ErrorReason.MEDIA_LOGIN_REQUIRED and _rotated(answers):
                known = {"cause": "cookies"}
            return _failure(reason, text, facts | known, retry_delay=_wait_in(text, reason))
    return None


def _rotated(answers: ResponseLog) -> bool:
    """Whether yt-dlp saw the site take back the session, which it tells as a warning only."""
    return any("cookies are no longer valid" in warning for warning in answers.warnings)


def _by_status(
    links: list[BaseException], text: str, answers: ResponseLog, facts: dict[str, str]
) -> ReelhaulError | None:
    transport = any(isinstance(link, TransportError) for link in links)
    status = next((link.status for link in links if isinstance(link, HTTPError)), 0)
    # A player API's refusal is told as "no formats"; only the recorded status says why.
    status = status or (0 if transport else answers.last_status)
    if status in (404, 410):
        return _failure(ErrorReason.MEDIA_NOT_FOUND, f"the site answers {status}", facts)
    if status == 429:
        delay = retry_after(answers.retry_after, datetime.now(UTC))
        return _failure(
            ErrorReason.UPSTREAM_THROTTLED, "the site asks to slow down", facts, retry_delay=delay
        )
    if status == 401:
        known = facts | {"cause": "login"}
        return _failure(ErrorReason.MEDIA_LOGIN_REQUIRED, "the site wants an account", known)
    if status in (403, 451):
        return _failure(
            ErrorReason.MEDIA_FORBIDDEN, f"the site answers {status}", facts | {"cause": str(status)}
        )
    if status >= 500 or status in (408, 425):
        delay = retry_after(answers.retry_after, datetime.now(UTC))
        known = facts | {"cause": str(status)}
        return _failure(
            ErrorReason.UPSTREAM_UNAVAILABLE, f"the site answers {status}", known, retry_delay=delay
        )
    if status >= 300:
        known = facts | {"cause": str(status)}
        return _failure(ErrorReason.UPSTREAM_UNAVAILABLE, f"the site answers {status}: {text}", known)
    return None


def _by_transport(
    links: list[BaseException], text: str, answers: ResponseLog, facts: dict[str, str]
) -> ReelhaulError | None:
    transport = any(isinstance(link, TransportError | ConnectionError | TimeoutError) for link in links)
    if not transport and not re.search(
        r"more expected|bytes read|Got error:|reset by peer|timed out|closed file", text
    ):
        return None
    words = f"{text} {links[-1]}"
    cause = next(
        (name for rule, name in error_patterns.TRANSPORT if re.search(rule, words, re.IGNORECASE)), "connect"
    )
    return _failure(
        ErrorReason.UPSTREAM_UNAVAILABLE, f"the site cannot be reached: {text}", facts | {"cause": cause}
    )


def retry_after(header: str, now: datetime) -> timedelta | None:
    """What a Retry-After header asks for, at most a day; None where it says nothing."""
    if header.strip().isdigit():
        delay = timedelta(seconds=min(int(header), 86_400))
    else:
        try:
            delay = parsedate_to_datetime(header) - now
        except (TypeError, ValueError):
            return None
    return min(max(delay, timedelta()), timedelta(days=1))


def _wait_in(text: str, reason: ErrorReason.ValueType) -> timedelta | None:
    if reason == ErrorReason.UPSTREAM_THROTTLED and "hour" in text:
        return timedelta(hours=1)
    return None


def _failure(reason: ErrorReason.ValueType, text: str, facts: dict[str, str], **more: Any) -> ReelhaulError:
    promised = error_spec(reason).metadata_keys
    return ReelhaulError(
        reason, text[:500], metadata={k: v for k, v in facts.items() if k in promised}, **more
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """*error*, and what it was raised from: yt-dlp wraps up to four deep, in three ways."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        link = waiting.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        information = getattr(link, "exc_info", None)
        inner = information[1] if isinstance(information, tuple) else None
        waiting += [
            inner,
            getattr(link, "cause", None),
            link.__cause__,
            link.__context__,
            getattr(link, "reason", None),
            *getattr(link, "unexpected_errors", ()),
        ]


def _plain(text: str) -> str:
    """yt-dlp's message without its prefix, its plea for bug reports and its advice for the command line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^(ERROR:\s*)?(\[[^\]]+\]\s*)?([\w-]{1,40}:\s+)?", "", text)
    return re.split(_ADVICE, text)[0].strip()


_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_592_000}
_IN = re.compile(rf"\bin (?:(\d+)|an?|a few) ({'|'.join(_UNITS)}|moment)s?", re.IGNORECASE)


def not_yet(start: datetime | None, text: str) -> ReelhaulError:
    """MEDIA_NOT_LIVE_YET, with the time to wait; *start* is read out of *text* where it is None."""
    now = datetime.now(UTC)
    if start is None and (wait := _wait(text)) is not None:
        start = now + wait
    told = start.strftime("%Y-%m-%dT%H:%M:%SZ") if start else ""
    delay = max(start - now, timedelta()) if start else None
    return ReelhaulError(
        ErrorReason.MEDIA_NOT_LIVE_YET, text[:500], metadata={"startTime": told}, retry_delay=delay
    )


def _wait(text: str) -> timedelta | None:
    """How long *text* says that it will be, e.g. "in 2 hours"; None where it does not."""
    found = _IN.search(text)
    if found is None or found[2].lower() == "moment":
        return None
    return timedelta(seconds=min(int(found[1] or 1), 1000) * _UNITS[found[2].lower()])
