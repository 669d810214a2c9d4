"""How the engine gets at sites: what the operator set, the same for every fetch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reelhaul_runtime.sites import host_of

#: The public service of SponsorBlock's users.
SPONSORBLOCK = "https://sponsor.ajay.app"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of the engine. Empty means its own default.

    ``player_clients`` are YouTube's, in the order to try. ``po_token_url`` is where tokens of
    proof of origin are made; ``js_runtime`` the path of a deno; ``cookies_file`` a Netscape
    cookie file, of which each run gets a copy of its own. ``connections`` is the most that one
    fetch has to a site at a time; all but one are for sites that are slow.
    """

    player_clients: tuple[str, ...] = ()
    po_token_url: str = ""
    js_runtime: str = ""
    cookies_file: str = ""
    sponsorblock_url: str = SPONSORBLOCK
    connections: int = 8
    #: Those of one fetch, in the place of that file's. A secret.
    cookies: str = field(default="", repr=False)
    #: The browser to be taken for, by site: for those that look at how a client greets them.
    impersonate: Mapping[str, str] = field(default_factory=dict)
    #: That of one fetch.
    impersonate_target: str = ""

    def for_request(self, url: str, cookies: str) -> EngineOptions:
        """What of this holds for a fetch of *url* with *cookies*."""
        host = host_of(url)
        sites = [site for site in self.impersonate if host == site or host.endswith(f".{site}")]
        browser = self.impersonate[max(sites, key=len)] if sites else ""
        return replace(self, cookies=cookies, impersonate_target=browser)
