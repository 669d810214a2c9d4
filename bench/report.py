"""Report of a benchmark: figures are printed at once, written as JSON, and compared with targets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio and its limit."""

    name: str
    ratio: float
    sense: Literal["<=", ">="]
    bar: float

    @property
    def met(self) -> bool:
        """Whether the ratio is within its limit."""
        return self.ratio <= self.bar if self.sense == "<=" else self.ratio >= self.bar

    def __str__(self) -> str:
        verdict = "ok" if self.met else "short"
        return f"bench {self.name} ratio={self.ratio:.2f} target={self.sense}{self.bar:g} {verdict}"


class Report:
    """Figures by name with all their rounds, and targets."""

    def __init__(self, name: str, *, short: bool) -> None:
        self.name, self.short = name, short
        self._figures: dict[str, dict[str, object]] = {}
        self._targets: list[Target] = []

    def add_figure(self, name: str, unit: str, rounds: Sequence[float], note: str = "") -> None:
        """Add and print a figure with the values of its rounds."""
        middle = median(rounds)
        self._figures[name] = {"unit": unit, "median": middle, "rounds": list(rounds), "note": note}
        spread = f"({min(rounds):,.4g} to {max(rounds):,.4g}, n={len(rounds)})" if len(rounds) > 1 else ""
        print(f"  {name:<58} {middle:>10,.4g} {unit:<9} {spread} {note}".rstrip(), flush=True)

    def add_figures(self, unit: str, figures: Mapping[str, Sequence[float]]) -> None:
        """Add several figures of one unit: name -> values of the rounds."""
        for name, rounds in figures.items():
            self.add_figure(name, unit, rounds)

    def add_target(self, name: str, ratio: float, sense: Literal["<=", ">="], bar: float) -> None:
        """Add a target: *ratio* is to be *sense* *bar*."""
        self._targets.append(Target(name, ratio, sense, bar))

    def print_title(self, text: str) -> None:
        """Print the title of the figures that follow."""
        print(f"\n{text}", flush=True)

    def finish(self, folder: Path, *, partial: bool = False) -> None:
        """Write ``<name>.json`` to *folder*, or ``<name>-short.json`` unless all was measured in full.

        Then print the targets.
        """
        result = {
            "name": self.name,
            "short": self.short,
            "commit": commit(),
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
        name = f"{self.name}-short.json" if self.short or partial else f"{self.name}.json"
        (folder / name).write_text(json.dumps(result, indent=1) + "\n")
        print()
        for target in self._targets:
            print(target)


def commit() -> str:
    """Return the hash of the measured commit, or ``unknown`` without git.

    ``-dirty`` follows the hash if files differ from the commit, other than the results of benchmarks.
    """
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", ":(exclude)bench/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}-dirty" if changes else revision


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of *ours* / *theirs*, taken per round, so that the machine's drift cancels out."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that the *share* (0 to 1) of *values* does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
