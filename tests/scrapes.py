"""Scrapes of services: their samples, and sums of them."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


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
