"""In-memory twins of the ports: for tests and for trying things out."""

from __future__ import annotations

from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul_gateway import model
from reelhaul_runtime.errors import ReelhaulError, Unavailable


class MemoryCheckup:
    """Health as it was told; a service that is away does not answer."""

    def __init__(self) -> None:
        self.statuses: dict[str, ServingStatus.ValueType] = {
            part.health_name: model.SERVING for part in (*model.SERVICES, *model.PARTS)
        }
        self.away: set[str] = set()

    async def status(self, owner: str, health_name: str) -> ServingStatus.ValueType:
        """See Checkup.status."""
        if owner in self.away:
            raise Unavailable(owner, f"{owner} does not answer")
        return self.statuses.get(health_name, model.UNKNOWN)


class MemoryCanary:
    """Fails as it was told."""

    def __init__(self) -> None:
        self.failure: ReelhaulError | None = None

    async def probe(self) -> None:
        """See Canary.sing."""
        if self.failure is not None:
            raise self.failure
