"""Scrapes of a suite's services."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from tests.metric_values import parse
from tests.suite.suite import Suite


def scrape(suite: Suite, service: str) -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Return the samples of *service* by name, and by the values of their labels in the order of names."""
    response = httpx.get(suite.metrics_url(service), trust_env=False, timeout=30)
    response.raise_for_status()
    return parse(response.text)
