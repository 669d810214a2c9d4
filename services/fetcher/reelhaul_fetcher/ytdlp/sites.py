"""Sites that yt-dlp knows: read from its extractors, in a child, when somebody first asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul_fetcher.model.hosts import ANY_HOST, hosts_of
from reelhaul_fetcher.ytdlp.downloader import Downloader

_MOST_HOSTS = 100


def known() -> Iterator[Extractor]:
    """Each that takes http URLs; not those that only other extractors ask, or that only say no."""
    for extractor in Downloader.extractors.values():
        told: Any = extractor
        if told.IE_DESC is False:
            continue
        if hosts := _hosts(told):
            yield Extractor(
                name=f"extractors/{told.IE_NAME}",
                display_name=told.IE_DESC or told.IE_NAME,
                hosts=hosts,
                broken=not told.working(),
            )


def _hosts(extractor: Any) -> Sequence[str]:
    """The hosts that it takes; those that bear its name first, for there may be too many."""
    if extractor.IE_NAME == "generic":
        return [ANY_HOST]
    pattern = extractor._VALID_URL
    patterns = [pattern] if isinstance(pattern, str) else pattern or []
    found = frozenset[str]().union(*(hosts_of(each) for each in patterns))
    name = extractor.IE_NAME.partition(":")[0].lower()
    # The guard leads nowhere that only an onion router knows.
    reachable = [host for host in found if not host.endswith(".onion")]
    return sorted(reachable, key=lambda host: (name not in host, host))[:_MOST_HOSTS]
