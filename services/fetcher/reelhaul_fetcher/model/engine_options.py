"""Options of the engine: how the operator lets sites be accessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reelhaul_runtime.sites import host_of

#: The public SponsorBlock service.
SPONSORBLOCK_URL = "https://sponsor.ajay.app"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of the engine, the same for every request. Empty means yt-dlp's own default."""

    #: YouTube's player clients, in the order to try.
    player_clients: tuple[str, ...] = ()
    #: Where PO tokens (proof of origin) are made.
    po_token_url: str = ""
    #: Path of a deno.
    js_runtime: str = ""
    #: Path of a Netscape cookie file. Each request gets a copy of its own.
    cookies_file: str = ""
    sponsorblock_url: str = SPONSORBLOCK_URL
    #: Most connections of one download to a site at a time. Only slow sites get more than one.
    connections: int = 8
    #: Browser to impersonate, by site, for sites that inspect the TLS handshake of their clients.
    impersonate: Mapping[str, str] = field(default_factory=dict)
    #: Cookies of one request in Netscape's format, instead of those of ``cookies_file``. A secret.
    cookies: str = field(default="", repr=False)
    #: Browser to impersonate in one request.
    impersonate_target: str = ""

    def for_request(self, url: str, cookies: str) -> EngineOptions:
        """Return the options for a request for *url* with *cookies*. The longest matching site wins."""
        host = host_of(url)
        sites = [site for site in self.impersonate if host == site or host.endswith(f".{site}")]
        browser = self.impersonate[max(sites, key=len)] if sites else ""
        return replace(self, cookies=cookies, impersonate_target=browser)
