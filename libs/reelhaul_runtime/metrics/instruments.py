"""Instruments: the metrics that every service has. docs/metrics.md says what they mean."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUILD_INFO = Gauge("reelhaul_build_info", "1", ["service", "version"])
READY = Gauge("reelhaul_ready", "1 while the service reports SERVING")
ERRORS = Counter("reelhaul_errors_total", "errors answered to callers, by ErrorReason", ["reason"])
AUTHENTICATION_FAILURES = Counter(
    "reelhaul_authentication_failures_total", "calls refused for their credential", ["reason"]
)
RATE_LIMITED = Counter("reelhaul_rate_limited_total", "calls refused by a rate limit", ["level"])
CREDENTIAL_CACHE = Counter("reelhaul_credential_cache_total", "look-ups of verified credentials", ["result"])
EVENT_LOOP_LAG = Gauge("reelhaul_event_loop_lag_seconds", "how late the event loop last ran a timer")
BROKER_RECONNECTS = Counter("reelhaul_broker_reconnects_total", "reconnections to the broker")
DATABASE_WAIT = Histogram(
    "reelhaul_database_wait_seconds",
    "time that an operation waited for a connection of its pool",
    ["operation"],
    buckets=(0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0),
)
SPANS_DROPPED = Counter(
    "reelhaul_spans_dropped_total", "spans that the collector did not take, or that were too many"
)
LOG_MESSAGES = Counter("reelhaul_log_messages_total", "lines logged, from WARNING on", ["level"])

# A first burst raises an alert only if the series is there before it.
for _level in ("key", "tenant", "address"):
    RATE_LIMITED.labels(_level)
