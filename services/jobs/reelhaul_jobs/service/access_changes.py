"""Changes of keys and tenants: published to the caches of this process and of all other services."""

from __future__ import annotations

from collections.abc import Callable

from reelhaul_jobs.ports.bus import JobBus

#: Called with the name of a changed key or tenant, e.g. "apiKeys/…" or "tenants/acme". Must not block.
OnAccessChange = Callable[[str], None]


class AccessChanges:
    """Publishes the names of changed keys and tenants, so that no service uses a cached one.

    It is published after the change is committed. The broker does not echo it to this process, which is
    why listeners here are called directly.
    """

    def __init__(self, bus: JobBus) -> None:
        self._bus = bus
        self._listeners: list[OnAccessChange] = []

    def subscribe(self, listener: OnAccessChange) -> None:
        """Call *listener* with the name of everything that changes from now on in this process."""
        self._listeners.append(listener)

    async def publish(self, name: str) -> None:
        """Publish that the key or tenant *name* changed. Never raises: a lost notice expires by itself."""
        for listener in self._listeners:
            listener(name)
        await self._bus.notify_access_changed(name)
