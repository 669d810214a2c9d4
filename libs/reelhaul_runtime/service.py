"""Service: how the suite runs and migrates a service, found by entry point and never imported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points

_GROUP = "reelhaul.services"


@dataclass(frozen=True, slots=True)
class Service:
    """What an entry point of the group ``reelhaul.services`` names."""

    name: str
    #: Runs the service with settings from the environment; it is ready to serve once entered.
    running: Callable[[], AbstractAsyncContextManager[None]]
    #: Migrates the service's database to this build's schema; None if it has no database.
    migrate: Callable[[], None] | None = None


def names() -> list[str]:
    """Return the names of all installed services, sorted."""
    return sorted(entry_points(group=_GROUP).names)


def load(name: str) -> Service:
    """Import and return the service called *name*. Raises KeyError if it is not installed."""
    service: Service = entry_points(group=_GROUP)[name].load()
    return service
