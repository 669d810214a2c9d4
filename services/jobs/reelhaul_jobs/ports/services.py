"""The storage and fetcher services, as the jobs service uses them, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.type.v1 import media_pb2

#: Returns the time, aware, in UTC.
Clock = Callable[[], datetime]


class Storage(Protocol):
    """The storage service, which keeps artifacts."""

    async def set_expire_time(self, artifact: str, expire_time: datetime) -> None:
        """Keep the artifact (by name) until *expire_time*. A missing artifact is not an error."""

    async def has_destination(self, tenant: str, destination: str) -> bool:
        """Return whether *tenant* has the destination (by id). Raises SERVICE_UNAVAILABLE."""

    async def deliver(self, artifact: str, destination: str, tenant: str, object_name: str) -> str:
        """Copy the artifact (by name) of *tenant* to its destination (by id); return the object's URI.

        It may take hours, and returns once the object is verified. A call that is cancelled leaves no
        incomplete object. Raises why it failed.
        """

    async def delete_artifacts(self, artifacts: Sequence[str]) -> None:
        """Delete the artifacts (by name). A missing artifact is not an error."""

    async def owns_resources(self, tenant: str) -> bool:
        """Return whether the tenant (by id) has artifacts, uploads or destinations."""

    async def delete_resources(self, tenant: str) -> bool:
        """Delete some of them; return whether others are left."""


class Probe(Protocol):
    """The fetcher service, which asks sites about media."""

    async def estimate(
        self, url: str, format_spec: media_pb2.FormatSpec, max_entries: int = 0
    ) -> tuple[media_pb2.MediaInfo, media_pb2.Estimate]:
        """Return what the site tells about the URL, and what a download would cost.

        With *max_entries*, for the playlist at the URL and a job for each of so many entries. Raises the
        error that the site's answer means.
        """

    async def probe(
        self, request: fetcher_service_pb2.ProbeMediaRequest
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """Return what the site tells the caller's tenant. Raises as ``estimate``; SERVICE_UNAVAILABLE."""
