"""The two neighbours that jobs asks: storage and the fetcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.type.v1 import media_pb2

#: The time, aware, in UTC.
Clock = Callable[[], datetime]


class Storage(Protocol):
    """The storage service, seen from here."""

    async def set_expire_time(self, artifact: str, expire_time: datetime) -> None:
        """The artifact (by name) is kept until then. Keeping what is gone is not an error."""

    async def delete_artifacts(self, artifacts: Sequence[str]) -> None:
        """Forget the artifacts (by name). Forgetting what is gone is not an error."""


class Probe(Protocol):
    """The fetcher's answer to: what is there, and what would it cost?"""

    async def estimate(
        self, url: str, format_spec: media_pb2.FormatSpec, max_entries: int = 0
    ) -> tuple[media_pb2.MediaInfo, media_pb2.Estimate]:
        """What the site says, and the estimate. Raises what the site's answer means.

        With *max_entries*: of the list at *url*, and of a job for each of at most so many entries.
        """

    async def probe(
        self, request: fetcher_service_pb2.ProbeMediaRequest
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """Return what the site says to the caller's tenant. Raises as ``estimate``; SERVICE_UNAVAILABLE."""
