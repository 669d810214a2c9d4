"""Sites: what the engine reads, listed once for all who ask."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul_fetcher.ports import Engine
from reelhaul_runtime.errors import NotFound


@dataclass(frozen=True, slots=True)
class ExtractorQuery:
    """So many sites behind the one called *after*, of those that have *search*, casefolded, about them."""

    page_size: int
    after: str = ""
    search: str = ""


class ExtractorCatalog:
    """The engine's sites by name; asked for when they are first wanted, and again for another engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listing: asyncio.Task[Sequence[Extractor]] | None = None
        self._version = ""
        self._names: list[str] = []
        self._known: list[Extractor] = []

    async def list(self, page: ExtractorQuery) -> Sequence[Extractor]:
        """Those that *page* asks for, and one more if more follow."""
        known = await self._listed()
        found: list[Extractor] = []
        for site in known[bisect_right(self._names, page.after.casefold()) :]:
            if page.search in _about(site):
                found.append(site)
                if len(found) > page.page_size:
                    break
        return found

    async def get(self, name: str) -> Extractor:
        """The one called *name*, whatever the case, or ``NotFound``."""
        known, wanted = await self._listed(), name.casefold()
        at = bisect_right(self._names, wanted) - 1
        if at < 0 or self._names[at] != wanted:
            raise NotFound(name)
        return known[at]

    async def _listed(self) -> Sequence[Extractor]:
        if self._known and self._engine.version == self._version:
            return self._known
        if self._listing is None:
            self._listing = asyncio.create_task(self._list())
            # A failure that nobody waited for is nobody's.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Who hangs up must not take the answer from the others, nor from who asks again.
        return await asyncio.shield(self._listing)

    async def _list(self) -> Sequence[Extractor]:
        try:
            found = await self._engine.list_extractors()
        finally:
            self._listing = None
        self._known = sorted(found, key=lambda site: site.name.casefold())
        self._names = [site.name.casefold() for site in self._known]
        self._version = self._engine.version
        return self._known


def _about(site: Extractor) -> str:
    told = (site.name.removeprefix("extractors/"), site.display_name)
    return "\n".join(told).casefold()
