"""Patterns by which messages of yt-dlp, the guard and the transport are classified. They change often."""

from __future__ import annotations

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.egresses import EGRESS_CAUSE

_LOGIN = ErrorReason.MEDIA_LOGIN_REQUIRED

#: Messages of sites, as yt-dlp words them: pattern, reason, metadata. The first match counts.
MESSAGES: tuple[tuple[str, ErrorReason.ValueType, dict[str, str]], ...] = (
    (r"confirm you.re not a bot|captcha|IP is likely being blocked", ErrorReason.UPSTREAM_BLOCKED, {}),
    (r"DRM protected|DRM protection", ErrorReason.MEDIA_DRM_PROTECTED, {}),
    (r"try again later.*rate.?limited|rate-limited by", ErrorReason.UPSTREAM_THROTTLED, {}),
    (r"confirm your age|age.restricted|inappropriate for some", _LOGIN, {"cause": "age"}),
    (r"private video|video is private", _LOGIN, {"cause": "private"}),
    (r"join this channel|members.only|Premium members", _LOGIN, {"cause": "members"}),
    (r"cookies are no longer valid|cookies.*(expired|rotated)", _LOGIN, {"cause": "cookies"}),
    (r"live event will begin|Premieres in|premiere will begin", ErrorReason.MEDIA_NOT_LIVE_YET, {}),
    (
        r"available in your (country|location)|geo.?restrict|blocked it in your country",
        ErrorReason.MEDIA_GEO_BLOCKED,
        {},
    ),
    (r"copyright grounds|copyright claim", ErrorReason.MEDIA_FORBIDDEN, {"cause": "copyright"}),
    (r"login required|log in|sign in|registered users|account credentials", _LOGIN, {"cause": "login"}),
    (
        r"video unavailable|been removed|no longer available|does not exist|account.*terminated|not found",
        ErrorReason.MEDIA_NOT_FOUND,
        {},
    ),
)

#: Messages for pages that were read, but have no usable format.
NO_FORMATS = r"no video formats found|no stream that plays was offered|requested format is not available"

#: ``cause`` of UPSTREAM_UNAVAILABLE, by the guard's reason for not reaching a site.
GUARD_CAUSES = {
    "unresolved": "dns",
    "resolve-timeout": "dns",
    "connect-timeout": "timeout",
    "connect-failed": "connect",
    "closed": "reset",
    "upstream-away": EGRESS_CAUSE,
    "upstream-407": EGRESS_CAUSE,
}

#: ``cause`` of UPSTREAM_UNAVAILABLE, by the transport's message. The first match counts.
TRANSPORT_CAUSES: tuple[tuple[str, str], ...] = (
    (r"name resolution|Name or service|getaddrinfo|nodename", "dns"),
    (r"certificate|SSL|TLS", "tls"),
    (r"timed out|timeout", "timeout"),
    (r"reset by peer|more expected|IncompleteRead|closed connection|bytes read|EOF", "reset"),
)
