"""Signing in: the cookies that a fetch asked for by name, and what the site's answer says of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model import cookies
from reelhaul_fetcher.ports import CookieStore
from reelhaul_runtime.errors import ReelhaulError

# A private video, or one for members, is not for whom the cookies sign in: no fault of theirs.
_THEIR_FAULT = ("login", "age", "cookies")


class NoCookies:
    """As ``ports.Cookies``: none have been configured."""

    def get(self, name: str, tenant: str) -> cookies.CookieJar:
        """As ``ports.Cookies.jar``."""
        raise cookies.cookies_unknown(name)

    def record_result(self, name: str, refused: str) -> None:
        """As ``ports.Cookies.noted``."""


class SiteCookies:
    """Gives fetches their cookies. Without a name, nothing is done."""

    def __init__(
        self, kept: CookieStore | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._kept, self._now = kept or NoCookies(), now

    def get_text(self, name: str, tenant: str, url: str) -> str:
        """The cookies *name* of *tenant* for a fetch of *url*. Raises COOKIES_UNKNOWN, COOKIES_EXPIRED."""
        if not name:
            return ""
        host = urlsplit(url).hostname or ""
        jar = self._kept.get(name, tenant)
        if jar.is_expired(host, self._now()):
            self._kept.record_result(name, "expired")
            raise cookies.cookies_expired(name, host)
        return jar.text

    def classify_cookie_failure(
        self, name: str, url: str, failure: ReelhaulError | None
    ) -> ReelhaulError | None:
        """*failure*, or COOKIES_REFUSED where that is what stands behind it."""
        if not name:
            return failure
        if failure is None:
            self._kept.record_result(name, "")
            return None
        cause = failure.metadata.get("cause")
        if failure.reason != ErrorReason.MEDIA_LOGIN_REQUIRED or cause not in _THEIR_FAULT:
            return failure
        self._kept.record_result(name, failure.text)
        return cookies.cookies_refused(name, urlsplit(url).hostname or "", failure.text)
