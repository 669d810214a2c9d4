"""The plan: what is done to the suite and when, drawn from a seed before anything is done."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Odds of each named edge: how often a passage of it is a process's last.
FAILPOINTS = {
    "jobs.create.before_commit": 0.01,
    "jobs.create.after_commit": 0.01,
    "jobs.dispatch.before_publish": 0.01,
    "jobs.dispatch.after_publish": 0.02,
    "jobs.claim.after_commit": 0.02,
    "jobs.renew.after_commit": 0.01,
    "jobs.finish.before_commit": 0.02,
    "jobs.finish.after_commit": 0.03,
    "fetcher.claim.after": 0.02,
    "fetcher.finish.before": 0.03,
    "fetcher.ack.before": 0.03,
    "storage.claim.after_commit": 0.02,
    "storage.publish.after_rename": 0.03,
    "storage.finish.after_commit": 0.03,
}

#: Kill a part; stop a fetcher for longer than its lease; delete the broker's WORK stream; stop jobs.
KILL, STALL, WIPE, HALT = "kill", "stall", "wipe", "halt"

_WEIGHTS = {"jobs": 4, "fetcher": 5, "storage": 2, "nats": 2}


@dataclass(frozen=True)
class Fault:
    """One thing that is done, so many seconds after the last one."""

    after: float
    kind: str
    #: The part that is killed; empty where the moment decides.
    part: str = ""


def faults(rng: random.Random, seconds: float, replicas: Mapping[str, int], stall: float) -> Iterator[Fault]:
    """The faults of a run of *seconds*, with stalls of *stall*; *replicas* of what there are several of."""
    names = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]
    spent, wiped, halted, stall_at = 0.0, False, False, rng.uniform(2, 4)
    while True:
        after = rng.uniform(0.5, 1.6)
        spent += after
        if spent > seconds:
            return
        if not wiped and spent > seconds * 0.4:
            wiped = True
            yield Fault(after, WIPE)
        elif not halted and spent > seconds * 0.7:
            halted = True
            spent += stall
            yield Fault(after, HALT)
        elif spent > stall_at:
            yield Fault(after, STALL)
            spent += stall
            stall_at = spent + rng.uniform(3, 6)
        else:
            yield Fault(after, KILL, _one_of(rng.choice(names), replicas, rng))


def _one_of(part: str, replicas: Mapping[str, int], rng: random.Random) -> str:
    number = rng.randint(1, replicas.get(part, 1))
    return part if number == 1 else f"{part}-{number}"


def as_setting() -> str:
    """FAILPOINTS as REELHAUL_FAILPOINTS has them."""
    return ",".join(f"{point}=kill:{odds}" for point, odds in FAILPOINTS.items())
