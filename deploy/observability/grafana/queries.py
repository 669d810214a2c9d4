"""Queries that panels have in common."""

from __future__ import annotations

#: The range of rates: Grafana chooses it so that it has at least four scrapes.
_RATE = "[$__rate_interval]"


def rate(metric: str, by: str, selector: str = "") -> str:
    """Return the rate of a counter, grouped by the labels *by*."""
    return f"sum by ({by}) (rate({metric}{selector}{_RATE}))"


def quantile(share: float, histogram: str, by: str = "", selector: str = "") -> str:
    """Return a quantile of a histogram, grouped by the labels *by*."""
    labels = ", ".join(filter(None, [by, "le"]))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({histogram}_bucket{selector}{_RATE})))"


def top(query: str) -> str:
    """Return the ten largest series of *query*."""
    return f"topk(10, {query})"


def quantiles(histogram: str, selector: str = "") -> dict[str, str]:
    """Return the median and the high quantiles of a histogram, by their legends."""
    return {f"p{share * 100:.0f}": quantile(share, histogram, "", selector) for share in (0.5, 0.9, 0.99)}
