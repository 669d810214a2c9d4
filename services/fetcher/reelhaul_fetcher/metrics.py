"""Metrics of the fetcher; docs/metrics.md says what they mean. `gauges.py` reads what a scrape asks for."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_runtime.metrics import buckets
from reelhaul_runtime.metrics.labels import SITES, BoundedLabel

FETCH_STAGE_SECONDS = Histogram(
    "reelhaul_fetch_stage_seconds", "Seconds that attempts spent in a stage", ["stage"], buckets=buckets.WORK
)
FETCH_BYTES = Counter("reelhaul_fetch_bytes_total", "Bytes that attempts received", ["site"])
FETCH_RESUMED_BYTES = Counter(
    "reelhaul_fetch_resumed_bytes_total", "Bytes that attempts took over from earlier ones"
)
PROBE_CACHE = Counter("reelhaul_probe_cache_total", "Probes by how they were answered", ["result"])
EGRESS_BYTES = Counter("reelhaul_egress_bytes_total", "Bytes through an egress", ["egress", "direction"])
GUARD_REFUSED = Counter("reelhaul_guard_refused_total", "Requests that the guard refused", ["reason"])
ENGINE_RESTARTS = Counter(
    "reelhaul_engine_restarts_total", "Restarts of processes that ended by themselves", ["process"]
)

# Series that alerts compute rates of exist before the first event.
for _result in ("hit", "joined", "miss"):
    PROBE_CACHE.labels(_result)
for _process in ("guard", "zygote"):
    ENGINE_RESTARTS.labels(_process)

# More than the guard has.
_REASONS = BoundedLabel(64)
for _refused in ("loopback", "private", "shared", "link-local", "metadata"):
    GUARD_REFUSED.labels(_REASONS.bound(_refused))
_STAGES = frozenset(Progress.Stage.values()) - {Progress.STAGE_UNSPECIFIED}


def record_stage(stage: Progress.Stage.ValueType, seconds: float) -> None:
    """Record that an attempt spent *seconds* in *stage*, which a child reported and may be any number."""
    if stage in _STAGES:
        FETCH_STAGE_SECONDS.labels(Progress.Stage.Name(stage)).observe(max(0.0, seconds))


def record_received(site: str, count: int) -> None:
    """Count *count* bytes received from *site*."""
    if count > 0:
        FETCH_BYTES.labels(SITES.bound(site)).inc(count)


def record_egress(egress: str, received: int, sent: int) -> None:
    """Count bytes through *egress*, whose name is empty if it is the only one, a direct connection."""
    name = egress or "direct"
    EGRESS_BYTES.labels(name, "in").inc(max(0, received))
    EGRESS_BYTES.labels(name, "out").inc(max(0, sent))


def record_refusal(reason: str, count: int = 1) -> None:
    """Count *count* refusals of the guard."""
    GUARD_REFUSED.labels(_REASONS.bound(reason)).inc(count)
