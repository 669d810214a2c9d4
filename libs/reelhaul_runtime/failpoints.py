"""Fail-points: named edges at which a crash test lets a process die, where it hurts most.

``REELHAUL_FAILPOINTS=jobs.finish.after_commit=kill:0.02,fetcher.ack.before=kill:0.1`` gives each
passage its odds. Settings refuse it unless ``REELHAUL_CHAOS=1`` is set as well.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
from collections.abc import Mapping

log = logging.getLogger(__name__)

_POINT = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)=kill:(0(?:\.\d+)?|1(?:\.0+)?)")

_armed: Mapping[str, float] = {}


def parse(text: str) -> dict[str, float]:
    """The odds of each point that *text* names. ValueError where it cannot be read."""
    odds = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        if not (found := _POINT.fullmatch(part)):
            raise ValueError(f"{part!r} is not <point>=kill:<0…1>")
        odds[found[1]] = float(found[2])
    return odds


def arm(odds: Mapping[str, float]) -> None:
    """From now on this process dies at these points by these odds; nowhere where there are none."""
    global _armed
    _armed = odds


def hit(point: str) -> None:
    """Die here by SIGKILL if the odds of *point* say so; do nothing unless fail-points are armed."""
    if _armed and random.random() < _armed.get(point, 0.0):  # noqa: S311 - a coin, no secret
        log.critical("killed at a fail-point", extra={"failpoint": point})
        os.kill(os.getpid(), signal.SIGKILL)
