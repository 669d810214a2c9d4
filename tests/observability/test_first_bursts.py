"""Series that alerts compute increases of, and whose first burst may be all there is."""

from __future__ import annotations

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

#: Imports what the services that count these do, in a process where nothing has happened.
CODE = """
import reelhaul_runtime.auth.authorization, reelhaul_runtime.auth.rate_limits, reelhaul_fetcher.metrics
from prometheus_client import generate_latest
print(generate_latest().decode())
"""
SERIES = {
    "reelhaul_authentication_failures_total": {
        "CREDENTIAL_MISSING",
        "CREDENTIAL_INVALID",
        "ADDRESS_FORBIDDEN",
    },
    "reelhaul_rate_limited_total": {"key", "tenant", "address"},
    "reelhaul_guard_refused_total": {"loopback", "private", "shared", "link-local", "metadata"},
}


def test_series_exist_before_their_first_event():
    """Otherwise a burst between two scrapes is the first value of a series, and no increase."""
    text = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    for name, values in SERIES.items():
        first = {next(iter(each.labels.values())): each.value for each in samples if each.name == name}
        assert first == dict.fromkeys(values, 0.0)
