"""Metrics as tests read them: of this process, or from a scrape."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Labels = frozenset[tuple[str, str]]


def scrape(url: str, token: str = "") -> list[Sample]:
    """Return the samples at *url*."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = httpx.get(url, headers=headers, trust_env=False, timeout=30)
    assert response.status_code == 200, response.text
    return parse(response.text)


def parse(text: str) -> list[Sample]:
    """Return the samples in *text*."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    """Return the sum of the samples of *name* that have *labels*."""
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


class Changes:
    """How the metrics of this process have changed since this was created: other tests run in it too."""

    def __init__(self) -> None:
        self._before = _read()

    def of(self, name: str, **labels: str) -> float:
        """Return by how much the sum of the series of *name* with *labels* has grown."""
        return _sum(_read(), name, labels) - _sum(self._before, name, labels)

    def new(self) -> set[tuple[str, Labels]]:
        """Return the series that are new: their names and labels."""
        return _read().keys() - self._before.keys()


def _read() -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }


def _sum(series: Mapping[tuple[str, Labels], float], name: str, labels: Mapping[str, str]) -> float:
    wanted = labels.items()
    return sum(value for (key, found), value in series.items() if key == name and wanted <= found)
