"""Sites: the unit that rate limits, cool-downs and circuit breakers count by."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

_OPERATORS = (
    "youtube.com",
    "x.com",
    "facebook.com",
    "dailymotion.com",
    "reddit.com",
    "bilibili.com",
    "tiktok.com",
    "vimeo.com",
    "twitch.tv",
    "instagram.com",
    "soundcloud.com",
)
# Domain -> site. All hosts of one operator share its throttling, so its domains and subdomains are one site.
_SITES: Mapping[str, str] = {domain: domain for domain in _OPERATORS} | {
    "youtu.be": "youtube.com",
    "youtube-nocookie.com": "youtube.com",
    "youtubekids.com": "youtube.com",
    "twitter.com": "x.com",
    "fb.watch": "facebook.com",
    "fb.com": "facebook.com",
    "dai.ly": "dailymotion.com",
    "redd.it": "reddit.com",
    "b23.tv": "bilibili.com",
}
_HOST_PREFIXES = ("www.", "m.", "mobile.")
_MAX_LENGTH = 255

# A fast path for URLs without user, port or IPv6 address, for which urlsplit() returns the same host.
_PLAIN_URL = re.compile(r"https?://([A-Za-z0-9._-]+)(?:[/?#]|\Z)")


def site_of(url: str) -> str:
    """Return the site that *url* belongs to, at most 255 characters.

    The domains of one operator are one site ("youtu.be" and "music.youtube.com" are "youtube.com");
    any other host is its own site, without "www." and the like.
    """
    return _site_of_host(hostname(url))


def host_of(url: str) -> str:
    """Return the host of *url* in lower case, without "www.", "m." or "mobile."."""
    return _without_prefix(hostname(url))


def hostname(url: str) -> str:
    """Return the host of *url* in lower case; empty if it has none, or is no URL, as redirects may be."""
    if plain := _PLAIN_URL.match(url):
        return plain[1].lower()
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def site_names(host: str) -> Iterator[str]:
    """Yield the names that lists of sites may have for *host*: it and its operator, and their parents.

    In punycode. A literal address has no name but itself.
    """
    host = _to_ascii(host)
    if _is_address(host):
        yield host
        return
    for name in (host, _site_of_host(host)):
        labels = name.split(".")
        yield from (".".join(labels[start:]) for start in range(len(labels)))


def _to_ascii(host: str) -> str:
    """Return *host* in lower case and punycode, without the root's dot."""
    host = host.rstrip(".").lower()
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# There are many URLs, but few hosts.
@lru_cache(maxsize=1024)
def _site_of_host(hostname: str) -> str:
    host = _without_prefix(hostname)
    # Every domain of the table has two labels.
    domain = ".".join(host.rsplit(".", 2)[-2:])
    return _SITES.get(domain, host[:_MAX_LENGTH])


def _without_prefix(hostname: str) -> str:
    host = hostname.rstrip(".").lower()
    for prefix in _HOST_PREFIXES:
        rest = host.removeprefix(prefix)
        if rest != host and "." in rest:
            return rest
    return host
