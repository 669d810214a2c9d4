"""``reelhaul up`` as the crash test needs it: several fetchers, and hardly a pause before a new start.

Run by its path, as a process: ``python -P tests/chaos/house.py FETCHERS``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace

from reelhaul_runtime import logs
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import ground, lines, parts, record
from reelhaul_runtime.up.keeper import Patience
from reelhaul_runtime.up.parts import Part
from reelhaul_runtime.up.suite import Suite

# What dies every few seconds must be back sooner than that: longest_pause.
_PATIENCE = Patience(longest_pause=0.4, between_questions=1.0, answer=4.0, misses=12)


def main() -> int:
    """Run the suite that REELHAUL_* describes until a signal; returns the exit code."""
    settings = SuiteSettings()
    with lines.to_stderr("json", settings.log_level) as told:
        logs.configure("up", "json", settings.log_level, stream=lines.Stream("up", told))
        folder = ground.run_folder(settings.data_dir)
        with ground.locked(folder):
            ground.await_leftovers(record.left_in(folder), 30)
            kept = list(_parts(settings, int(sys.argv[1])))
            return asyncio.run(Suite(kept, folder, _PATIENCE, told).run())


def _parts(settings: SuiteSettings, fetchers: int) -> Iterator[Part]:
    """Broker, services, and the fetchers beside the first one: fetcher-2, fetcher-3 …"""
    nats = parts.nats(settings.data_dir / "nats", ground.steady_port())
    yield nats
    token = ground.suite_token(settings.data_dir / "run")
    for part in parts.services(settings, nats.address, token):
        yield part
        if part.name == "fetcher":
            yield from (_another(part, number) for number in range(2, fetchers + 1))


def _another(fetcher: Part, number: int) -> Part:
    address = ground.with_port("127.0.0.1:0")
    environment = {**fetcher.environment, "REELHAUL_FETCHER_ADDRESS": address}
    return replace(fetcher, name=f"{fetcher.name}-{number}", address=address, environment=environment)


if __name__ == "__main__":
    sys.exit(main())
