"""What the operator set of how sites are read, in yt-dlp's words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from yt_dlp.networking.impersonate import ImpersonateTarget

from reelhaul_fetcher.model.engine_options import Access

# A browser's whole jar is a fraction of it.
_MAX_COOKIES = 4 * 1024 * 1024


def options(access: Access) -> dict[str, Any]:
    """yt-dlp's parameters for *access*. Raises OSError where the cookies cannot be read."""
    told: dict[str, Any] = {}
    arguments: dict[str, dict[str, list[str]]] = {}
    if access.player_clients:
        arguments["youtube"] = {"player_client": list(access.player_clients)}
    if access.po_token_url:
        arguments["youtubepot-bgutilhttp"] = {"base_url": [access.po_token_url]}
    if arguments:
        told["extractor_args"] = arguments
    if access.js_runtime:
        told["js_runtimes"] = {"deno": {"path": access.js_runtime}}
    if access.browser:
        told["impersonate"] = ImpersonateTarget.from_str(access.browser)
    if access.cookies:
        # In memory alone: no copy for a crash to leave on disk, and what the site changes ends with us.
        told["cookiefile"] = io.StringIO(access.cookies)
    elif access.cookies_file:
        with Path(access.cookies_file).open(encoding="utf-8") as file:
            # yt-dlp writes the jar back as sites change it: a copy in memory is nobody else's.
            told["cookiefile"] = io.StringIO(file.read(_MAX_COOKIES))
    return told
