"""Failpoints: named places where a crash test kills the process with a given probability.

``REELHAUL_FAILPOINTS=jobs.finish.after_commit=kill:0.02,fetcher.ack.before=kill:0.1`` sets the
probabilities. Settings reject it unless ``REELHAUL_CHAOS=1`` is set as well.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
from collections.abc import Mapping

log = logging.getLogger(__name__)

_FAILPOINT = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)=kill:(0(?:\.\d+)?|1(?:\.0+)?)")

_armed: Mapping[str, float] = {}


def parse(text: str) -> dict[str, float]:
    """Return the probability of each failpoint in *text*. Raises ValueError."""
    probabilities = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        if not (match := _FAILPOINT.fullmatch(part)):
            raise ValueError(f"{part!r} is not <point>=kill:<0…1>")
        probabilities[match[1]] = float(match[2])
    return probabilities


def arm(probabilities: Mapping[str, float]) -> None:
    """Set the failpoints of this process from now on; an empty mapping disarms all."""
    global _armed
    _armed = probabilities


def hit(point: str) -> None:
    """Kill this process (SIGKILL) with the probability of *point*; do nothing if it is not armed."""
    if _armed and random.random() < _armed.get(point, 0.0):  # noqa: S311 - no secret
        log.critical("killed at a failpoint", extra={"failpoint": point})
        os.kill(os.getpid(), signal.SIGKILL)
