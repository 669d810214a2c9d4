"""A service as the rest of the suite sees it: a name, a way to run, a way to migrate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points

_GROUP = "reelhaul.services"


@dataclass(frozen=True, slots=True)
class Service:
    """What the entry-point group ``reelhaul.services`` names: found there, never imported."""

    name: str
    #: Runs the service with settings read from the environment; ready to serve when entered.
    running: Callable[[], AbstractAsyncContextManager[None]]
    #: Brings the service's database to this build's schema; None where it has no database.
    migrate: Callable[[], None] | None = None


def installed() -> dict[str, Service]:
    """All services of this installation by name. Imports them: ask for one with ``find``."""
    return {entry.name: entry.load() for entry in entry_points(group=_GROUP)}


def names() -> list[str]:
    """The names of all services of this installation, in the order of the entry points' names."""
    return sorted(entry_points(group=_GROUP).names)


def find(name: str) -> Service:
    """The service called *name*. KeyError if this installation has none such."""
    service: Service = entry_points(group=_GROUP)[name].load()
    return service
