"""Site access: runs a fetch with a proxy session and named cookies, and records how the site answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model import cookies
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import CookieStore, Guard
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sites import site_of

T = TypeVar("T")

# Causes of MEDIA_LOGIN_REQUIRED that the cookies can be at fault for. A private or members-only video
# is not visible to the account, whatever its cookies.
_COOKIE_CAUSES = ("login", "age", "cookies")

_GUARD_GRACE_SECONDS = 5

# Failures that may be due to a refusal of the guard.
_GUARD_REASONS = (
    ErrorReason.EXTRACTOR_FAILED,
    ErrorReason.FORMAT_UNAVAILABLE,
    ErrorReason.MEDIA_FORBIDDEN,
    ErrorReason.SITE_UNSUPPORTED,
    ErrorReason.UPSTREAM_UNAVAILABLE,
)


class SiteCookies:
    """The named cookies of *store*; None: there are none."""

    def __init__(
        self, store: CookieStore | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store, self._now = store, now

    def get_text(self, name: str, tenant: str, url: str) -> str:
        """Return the cookies *name* of *tenant* for a fetch of *url*; empty without a name.

        Raises COOKIES_UNKNOWN, COOKIES_EXPIRED.
        """
        if not name:
            return ""
        if self._store is None:
            raise cookies.cookies_unknown(name)
        host = urlsplit(url).hostname or ""
        jar = self._store.get(name, tenant)
        if jar.is_expired(host, self._now()):
            self._store.record_result(name, "expired")
            raise cookies.cookies_expired(name, host)
        return jar.text

    def classify_cookie_failure(
        self, name: str, url: str, failure: ReelhaulError | None
    ) -> ReelhaulError | None:
        """Return *failure*, or COOKIES_REFUSED if the cookies *name* caused it; record it with them."""
        if not name or self._store is None:
            return failure
        if failure is None:
            self._store.record_result(name, "")
            return None
        cause = failure.metadata.get("cause")
        if failure.reason != ErrorReason.MEDIA_LOGIN_REQUIRED or cause not in _COOKIE_CAUSES:
            return failure
        self._store.record_result(name, failure.text)
        return cookies.cookies_refused(name, urlsplit(url).hostname or "", failure.text)


@dataclass(slots=True)
class SiteAccess:
    """How this fetcher reaches sites: through the guard, by one of its egresses, with named cookies."""

    guard: Guard
    egresses: Egresses = field(default_factory=Egresses)
    cookies: SiteCookies = field(default_factory=SiteCookies)

    async def run(
        self,
        work: Callable[[str], Coroutine[Any, Any, T]],
        *,
        session: str,
        url: str,
        egress: str,
        cookies: str,
        byte_limit: int,
        seconds: float,
        on_usage: Callable[[Usage], None] = lambda _: None,
    ) -> tuple[T, Usage]:
        """Await *work* with the proxy URL of a new guard session; return its result and the usage.

        The session has the name *session* and the budget *byte_limit*. *seconds* is the time limit of *work*,
        which ends by itself (0: none).
        *on_usage* is called with its usage in any case.
        Raises the failure of *work*, or COOKIES_REFUSED or URL_FORBIDDEN if that is its cause.
        """
        # Later than the time limit of *work*, whose error says what happened; the guard just disconnects.
        guard_seconds = seconds + _GUARD_GRACE_SECONDS if seconds else 0
        proxy_url = await self.guard.open(session, byte_limit, egress, guard_seconds)
        failure: ReelhaulError | None = None
        try:
            result = await work(proxy_url)
        except ReelhaulError as error:
            failure = error
        finally:
            usage = await asyncio.shield(self.guard.close(session))
            on_usage(usage)
        self.egresses.record_result(site_of(url), egress, failure)
        failure = self.cookies.classify_cookie_failure(cookies, url, failure)
        if failure is not None:
            raise explain_guard_refusal(failure, usage) from failure
        return result, usage


def explain_guard_refusal(failure: ReelhaulError, usage: Usage) -> ReelhaulError:
    """Return *failure*, or the guard's refusal if that caused it."""
    if failure.reason not in _GUARD_REASONS or not usage.refusals:
        return failure
    host, reason = usage.refusals[-1]
    if reason == "byte-budget":
        return ReelhaulError(ErrorReason.MEDIA_TOO_LARGE, "the site sent more bytes than the job may receive")
    if reason in ("time-budget", "connections"):
        return failure
    if reason == "site":
        text = f"this server does not allow downloads from {host}"
        return ReelhaulError(ErrorReason.SITE_FORBIDDEN, text, metadata={"host": host})
    text = f"the guard refused {host or 'an invalid address'}: {reason}"
    return ReelhaulError(ErrorReason.URL_FORBIDDEN, text, metadata={"host": host})
