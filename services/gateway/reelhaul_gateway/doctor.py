"""The checks of ``reelhaul doctor`` about the gateway."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from reelhaul_gateway.settings import Settings
from reelhaul_runtime.doctor.check import Check, Finding, ok, warning


def checks() -> Sequence[Check]:
    """Return the check of the workers and of the drain."""
    settings = Settings()
    return [Check("gateway.workers", lambda: _check_workers(settings))]


def _check_workers(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    text = f"{settings.gateway_workers} worker{'s' * (settings.gateway_workers > 1)} on {cores} cores"
    if settings.gateway_workers > cores:
        yield warning(text, "set REELHAUL_GATEWAY_WORKERS to the number of cores at most")
    else:
        yield ok(text)
    if settings.gateway_unready_seconds >= settings.drain_seconds:
        yield warning(
            "REELHAUL_GATEWAY_UNREADY_SECONDS leaves no time of REELHAUL_DRAIN_SECONDS to end requests",
            "raise REELHAUL_DRAIN_SECONDS",
        )
