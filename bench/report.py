"""What was measured: printed as it comes, kept as JSON, and ended with a line per target."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio and its bar."""

    name: str
    ratio: float
    sense: Literal["<=", ">="]
    bar: float

    @property
    def met(self) -> bool:
        """Whether the ratio is on the good side of its bar."""
        return self.ratio <= self.bar if self.sense == "<=" else self.ratio >= self.bar

    def __str__(self) -> str:
        verdict = "ok" if self.met else "short"
        return f"bench {self.name} ratio={self.ratio:.2f} target={self.sense}{self.bar:g} {verdict}"


class Report:
    """Figures by name, each with all its rounds, and the targets that they are held against."""

    def __init__(self, name: str, *, short: bool) -> None:
        self.name, self.short = name, short
        self._figures: dict[str, dict[str, object]] = {}
        self._targets: list[Target] = []

    def figure(self, name: str, unit: str, rounds: Sequence[float], note: str = "") -> float:
        """Keep and print the rounds of one figure; their median."""
        middle = median(rounds)
        self._figures[name] = {"unit": unit, "median": middle, "rounds": list(rounds), "note": note}
        spread = f"({min(rounds):,.4g} to {max(rounds):,.4g}, n={len(rounds)})" if len(rounds) > 1 else ""
        print(f"  {name:<58} {middle:>10,.4g} {unit:<9} {spread} {note}".rstrip(), flush=True)
        return middle

    def figures(self, unit: str, rounds: Mapping[str, Sequence[float]]) -> None:
        """Several figures of one unit."""
        for name, each in rounds.items():
            self.figure(name, unit, each)

    def target(self, name: str, ratio: float, sense: Literal["<=", ">="], bar: float) -> None:
        """Hold *ratio* against *bar*."""
        self._targets.append(Target(name, ratio, sense, bar))

    def title(self, text: str) -> None:
        """What the figures that follow are about."""
        print(f"\n{text}", flush=True)

    def end(self, folder: Path) -> None:
        """Write ``<name>.json`` (a short form's beside it) and print the targets."""
        kept = {
            "name": self.name,
            "short": self.short,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {
                "cpus": os.cpu_count(),
                "system": platform.platform(),
                "python": platform.python_version(),
            },
            "figures": self._figures,
            "targets": [
                {"name": t.name, "ratio": t.ratio, "sense": t.sense, "bar": t.bar, "met": t.met}
                for t in self._targets
            ],
        }
        folder.mkdir(exist_ok=True)
        name = f"{self.name}-short.json" if self.short else f"{self.name}.json"
        (folder / name).write_text(json.dumps(kept, indent=1) + "\n")
        print()
        for target in self._targets:
            print(target)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of *ours* over *theirs*, round by round: the machine's drift cancels out."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that *share* of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
