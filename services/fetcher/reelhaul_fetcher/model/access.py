"""How the engine gets at sites: what the operator set, the same for every fetch."""

from __future__ import annotations

from dataclasses import dataclass

#: The public service of SponsorBlock's users.
SPONSORBLOCK = "https://sponsor.ajay.app"


@dataclass(frozen=True, slots=True)
class Access:
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
