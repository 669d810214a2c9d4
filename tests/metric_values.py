"""Values of this process's metrics: what changed since a moment, and what a scrape shows now."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from reelhaul_runtime.metrics import collectors

#: Labels and their values, sorted.
Labels = tuple[tuple[str, str], ...]


class MetricChanges:
    """What counters counted since this was created: other tests of the process count in them too."""

    def __init__(self) -> None:
        self._before = _samples()

    def of(self, name: str) -> Mapping[tuple[str, ...], float]:
        """Return by the values of its labels, in the order of their names, how the sample *name* changed."""
        now = _samples()
        return {
            tuple(value for _, value in labels): change
            for (sample, labels), value in now.items()
            if sample == name and (change := round(value - self._before.get((sample, labels), 0.0), 6))
        }

    def total(self, name: str, **labels: str) -> float:
        """Return how the sum of the samples *name* that have *labels* changed."""
        return round(_sum(_samples(), name, labels) - _sum(self._before, name, labels), 6)

    def new(self) -> set[tuple[str, Labels]]:
        """Return the samples that are new: their names and labels."""
        return _samples().keys() - self._before.keys()


async def scrape() -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Return what GET /metrics would show now: samples by name, and by the values of their labels."""
    await collectors.refresh()
    return parse(generate_latest(REGISTRY).decode())


def parse(text: str) -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Return the samples of *text*, by name, and by the values of their labels in the order of names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def _samples() -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }


def _sum(samples: Mapping[tuple[str, Labels], float], name: str, labels: Mapping[str, str]) -> float:
    return sum(
        value for (sample, found), value in samples.items() if sample == name and labels.items() <= set(found)
    )
