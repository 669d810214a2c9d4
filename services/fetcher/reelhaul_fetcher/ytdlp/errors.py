"""Classification of failures: exceptions, yt-dlp's messages and HTTP statuses become error reasons.

The order of the rules is what was measured to tell causes apart: our own errors, the guard, the type of the
exception, the site's message, the last HTTP status, the transport, and last the engine itself.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import yt_dlp.version
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media.ffmpeg import FfmpegFailed
from reelhaul_fetcher.model.http_values import parse_retry_after
from reelhaul_fetcher.ytdlp import error_patterns
from reelhaul_fetcher.ytdlp.downloader import ResponseLog
from reelhaul_fetcher.ytdlp.process.sandbox import NetworkDenied
from reelhaul_runtime.errors import ReelhaulError, error_spec
from reelhaul_runtime.redaction import redact_paths, redact_urls
from reelhaul_runtime.sites import hostname

ENGINE = f"yt-dlp {yt_dlp.version.__version__}"

_UPGRADE_URL = "https://github.com/yt-dlp/yt-dlp/releases"
_MAX_TEXT = 500
# Of a message that is classified. Sites choose it, and not all patterns are linear.
_MAX_CLASSIFIED_TEXT = 4000

# Where yt-dlp's advice for the command line and its request for bug reports begin.
_ADVICE = r"; please report this issue|[.\n]\s*You might want to use|\. Use --|\. It is recommended to use"

_UNIT_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
}
_WAIT = re.compile(rf"\bin (?:([0-9]{{1,9}})|an?|a few) ({'|'.join(_UNIT_SECONDS)}|moment)s?", re.IGNORECASE)


def classify(error: BaseException, log: ResponseLog, url: str) -> ReelhaulError:
    """Return the failure that *error*, which ended a request for *url*, means."""
    chain = list(error_chain(error))
    for link in chain:
        if isinstance(link, ReelhaulError):
            link.text = redact_paths(link.text)
            return link
    message = _without_ids(str(chain[0]), chain)[:_MAX_CLASSIFIED_TEXT]
    text = redact_paths(redact_urls(_without_decoration(message)))
    host = log.last_host or hostname(url)
    metadata = {"url": url, "host": host, "extractor": log.extractor, "engineVersion": ENGINE}
    for rule in (_by_guard, _by_type, _by_message, _by_status, _by_transport):
        if failure := rule(chain, text, log, metadata):
            return failure
    return _classify_engine_failure(chain, text, log, metadata)


def not_live_yet(start: datetime | None, text: str) -> ReelhaulError:
    """Return MEDIA_NOT_LIVE_YET with the time to wait. Without *start*, it is read from *text*."""
    now = datetime.now(UTC)
    if start is None and (wait := _parse_wait(text)) is not None:
        start = now + wait
    start_time = start.strftime("%Y-%m-%dT%H:%M:%SZ") if start else ""
    delay = max(start - now, timedelta()) if start else None
    announced = f" (announced for {start_time})" if start else ""
    return ReelhaulError(
        ErrorReason.MEDIA_NOT_LIVE_YET,
        text[: _MAX_TEXT - len(announced)] + announced,
        metadata={"startTime": start_time},
        retry_delay=delay,
    )


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what caused it: yt-dlp wraps up to four deep, in three ways."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        link = pending.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        exc_info = getattr(link, "exc_info", None)
        pending += [
            exc_info[1] if isinstance(exc_info, tuple) else None,
            getattr(link, "cause", None),
            link.__cause__,
            link.__context__,
            getattr(link, "reason", None),
            *getattr(link, "unexpected_errors", ()),
        ]


def _by_guard(
    chain: list[BaseException], text: str, log: ResponseLog, metadata: dict[str, str]
) -> ReelhaulError | None:
    if any(isinstance(link, NetworkDenied) for link in chain):
        return _failure(ErrorReason.URL_FORBIDDEN, "the page tries to bypass the guard", metadata)
    verdict = log.guard_verdict
    if verdict is None:
        return None
    # The host of the last request may have redirected to the one that the guard did not connect to.
    metadata = metadata | {"host": verdict.host}
    if not verdict.refused:
        cause = error_patterns.GUARD_CAUSES.get(verdict.reason, verdict.reason)
        text = f"{verdict.host} cannot be reached: {verdict.reason}"
        return _failure(ErrorReason.UPSTREAM_UNAVAILABLE, text, metadata | {"cause": cause})
    if verdict.reason == "byte-budget":
        return _failure(
            ErrorReason.MEDIA_TOO_LARGE, "the site sent more bytes than the job may receive", metadata
        )
    if verdict.reason == "site":
        text = f"this server does not allow downloads from {verdict.host}"
        return _failure(ErrorReason.SITE_FORBIDDEN, text, metadata)
    text = f"the guard refused {verdict.host or 'an invalid address'}: {verdict.reason}"
    return _failure(ErrorReason.URL_FORBIDDEN, text, metadata)


def _by_type(
    chain: list[BaseException], text: str, log: ResponseLog, metadata: dict[str, str]
) -> ReelhaulError | None:
    for link in chain:
        if isinstance(link, UnsupportedError):
            return _failure(ErrorReason.SITE_UNSUPPORTED, "no extractor found media at this URL", metadata)
        if isinstance(link, GeoRestrictedError):
            metadata["region"] = ",".join(map(str, link.countries or ()))
            return _failure(ErrorReason.MEDIA_GEO_BLOCKED, text, metadata)
        if isinstance(link, FfmpegFailed):
            metadata["step"] = "package"
            return _failure(ErrorReason.POSTPROCESSING_FAILED, f"ffmpeg failed: {text}", metadata)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failure(ErrorReason.WORKER_DISK_FULL, "the worker's disk is full", metadata)
        if isinstance(link, MemoryError):
            return _failure(
                ErrorReason.MEDIA_TOO_LARGE, "the site's response needs too much memory", metadata
            )
        if isinstance(link, OSError) and link.errno == errno.EFBIG:
            return _failure(ErrorReason.MEDIA_TOO_LARGE, "a file exceeded the job's limit", metadata)
    return None


def _by_message(
    chain: list[BaseException], text: str, log: ResponseLog, metadata: dict[str, str]
) -> ReelhaulError | None:
    # The message of an HTTPError ("HTTP Error 404: Not Found") is its status, not the site's message.
    if any(isinstance(link, HTTPError) for link in chain):
        return None
    for pattern, reason, details in error_patterns.MESSAGES:
        if re.search(pattern, text, re.IGNORECASE):
            if reason == ErrorReason.MEDIA_NOT_LIVE_YET:
                return not_live_yet(None, text)
            if reason == ErrorReason.MEDIA_LOGIN_REQUIRED and _cookies_were_rotated(log):
                details = {"cause": "cookies"}
            return _failure(reason, text, metadata | details, retry_delay=_quota_delay(text, reason))
    return None


def _by_status(
    chain: list[BaseException], text: str, log: ResponseLog, metadata: dict[str, str]
) -> ReelhaulError | None:
    is_transport = any(isinstance(link, TransportError) for link in chain)
    status = next((link.status for link in chain if isinstance(link, HTTPError)), 0)
    # yt-dlp reports a refusal by a player API as "no formats"; only the recorded status tells the cause.
    status = status or (0 if is_transport else log.last_status)
    message = f"the site responds with status {status}"
    details = metadata | {"cause": str(status)}
    if status in (404, 410):
        return _failure(ErrorReason.MEDIA_NOT_FOUND, message, metadata)
    if status == 429:
        delay = parse_retry_after(log.retry_after, datetime.now(UTC))
        return _failure(
            ErrorReason.UPSTREAM_THROTTLED,
            "the site limits the rate of requests",
            metadata,
            retry_delay=delay,
        )
    if status == 401:
        return _failure(
            ErrorReason.MEDIA_LOGIN_REQUIRED, "the site requires an account", metadata | {"cause": "login"}
        )
    if status in (403, 451):
        return _failure(ErrorReason.MEDIA_FORBIDDEN, message, details)
    if status >= 500 or status in (408, 425):
        delay = parse_retry_after(log.retry_after, datetime.now(UTC))
        return _failure(ErrorReason.UPSTREAM_UNAVAILABLE, message, details, retry_delay=delay)
    if status >= 300:
        return _failure(ErrorReason.UPSTREAM_UNAVAILABLE, f"{message}: {text}", details)
    return None


def _by_transport(
    chain: list[BaseException], text: str, log: ResponseLog, metadata: dict[str, str]
) -> ReelhaulError | None:
    is_transport = any(isinstance(link, TransportError | ConnectionError | TimeoutError) for link in chain)
    if not is_transport and not re.search(
        r"more expected|bytes read|Got error:|reset by peer|timed out|closed file", text
    ):
        return None
    messages = f"{text} {str(chain[-1])[:_MAX_CLASSIFIED_TEXT]}"
    causes = (
        cause
        for pattern, cause in error_patterns.TRANSPORT_CAUSES
        if re.search(pattern, messages, re.IGNORECASE)
    )
    return _failure(
        ErrorReason.UPSTREAM_UNAVAILABLE,
        f"the site cannot be reached: {text}",
        metadata | {"cause": next(causes, "connect")},
    )


def _classify_engine_failure(
    chain: list[BaseException], text: str, log: ResponseLog, metadata: dict[str, str]
) -> ReelhaulError:
    """Return the failure of the engine itself, by how far the extraction got."""
    extractors = {str(getattr(link, "ie", None) or "").lower() for link in chain} | {log.extractor}
    message = f"{ENGINE} could not read this page: {text}; a newer version may"
    if re.search(error_patterns.NO_FORMATS, text, re.IGNORECASE):
        # yt-dlp's text for it adds no information.
        cause = re.sub(error_patterns.NO_FORMATS, "", text, flags=re.IGNORECASE).strip("!.; ")
        message = "the page was read, but no format that can be played was found"
        message += f": {cause}" if cause else ""
        # The generic extractor has nothing that a newer version could repair.
        if "generic" in extractors:
            return _failure(ErrorReason.FORMAT_UNAVAILABLE, message, metadata)
    elif log.extractor and not any(isinstance(link, ExtractorError) for link in chain):
        message = f"the media cannot be downloaded: {text}"
        if isinstance(chain[0], DownloadError):
            return _failure(ErrorReason.FORMAT_UNAVAILABLE, message, metadata)
    return _failure(ErrorReason.EXTRACTOR_FAILED, message, metadata, help_url=_UPGRADE_URL)


def _cookies_were_rotated(log: ResponseLog) -> bool:
    """Return whether the site invalidated the session, which yt-dlp reports only as a warning."""
    return any("cookies are no longer valid" in warning for warning in log.warnings)


def _quota_delay(text: str, reason: ErrorReason.ValueType) -> timedelta | None:
    """Return the retry delay of YouTube's guest quota, which lasts "up to an hour"."""
    if reason == ErrorReason.UPSTREAM_THROTTLED and "hour" in text:
        return timedelta(hours=1)
    return None


def _parse_wait(text: str) -> timedelta | None:
    """Return the time until an event that *text* states, e.g. "in 2 hours"; None if it states none."""
    match = _WAIT.search(text)
    if match is None or match[2].lower() == "moment":
        return None
    return timedelta(seconds=min(int(match[1] or 1), 1000) * _UNIT_SECONDS[match[2].lower()])


def _without_ids(text: str, chain: Iterable[BaseException]) -> str:
    """Return *text* without the ids that extractors put before their messages.

    The generic extractor's id is the end of the URL, query included: ``reset?token=…``.
    """
    for link in chain:
        if isinstance(link, ExtractorError) and link.video_id:
            text = text.replace(f"] {link.video_id}: ", "] ", 1)
    return text


def _without_decoration(text: str) -> str:
    """Return yt-dlp's message without its prefix, its request for bug reports and its advice."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^(ERROR:\s*)?(\[[^\]]+\]\s*)?([\w-]{1,40}:\s+)?", "", text)
    return re.split(_ADVICE, text)[0].strip()


def _failure(
    reason: ErrorReason.ValueType, text: str, metadata: dict[str, str], **details: Any
) -> ReelhaulError:
    """Return *reason* with those of *metadata* that it declares."""
    keys = error_spec(reason).metadata_keys
    return ReelhaulError(
        reason,
        text[:_MAX_TEXT],
        metadata={key: value for key, value in metadata.items() if key in keys},
        **details,
    )
