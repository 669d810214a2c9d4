"""Extractors: the catalog of the sites that the engine supports, listed once for all callers."""

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
    """A page of the extractors after the name *after* that match *search*, which is casefolded."""

    page_size: int
    after: str = ""
    search: str = ""


class ExtractorCatalog:
    """The engine's extractors by name; read when first needed and after a change of its version."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listing: asyncio.Task[Sequence[Extractor]] | None = None
        self._version = ""
        self._names: list[str] = []
        self._extractors: list[Extractor] = []

    async def list(self, query: ExtractorQuery) -> Sequence[Extractor]:
        """Return the page of *query*, and one extractor more if another page follows."""
        extractors = await self._load()
        matches: list[Extractor] = []
        for extractor in extractors[bisect_right(self._names, query.after.casefold()) :]:
            if query.search in _searchable_text(extractor):
                matches.append(extractor)
                if len(matches) > query.page_size:
                    break
        return matches

    async def get(self, name: str) -> Extractor:
        """Return the extractor *name*, case-insensitively. Raises NotFound."""
        extractors, key = await self._load(), name.casefold()
        index = bisect_right(self._names, key) - 1
        if index < 0 or self._names[index] != key:
            raise NotFound(name)
        return extractors[index]

    async def _load(self) -> Sequence[Extractor]:
        if self._extractors and self._engine.version == self._version:
            return self._extractors
        if self._listing is None:
            self._listing = asyncio.create_task(self._list())
            # Without a waiter, its failure must not be logged as never retrieved.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A caller that hangs up must not cancel the listing for the others.
        return await asyncio.shield(self._listing)

    async def _list(self) -> Sequence[Extractor]:
        try:
            extractors = await self._engine.list_extractors()
        finally:
            self._listing = None
        self._extractors = sorted(extractors, key=lambda extractor: extractor.name.casefold())
        self._names = [extractor.name.casefold() for extractor in self._extractors]
        self._version = self._engine.version
        return self._extractors


def _searchable_text(extractor: Extractor) -> str:
    return f"{extractor.name.removeprefix('extractors/')}\n{extractor.display_name}".casefold()
