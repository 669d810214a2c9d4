"""Instruments: the metrics that every service has. docs/metrics.md says what they mean."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

BUILD_INFO = Gauge("reelhaul_build_info", "1", ["service", "version"])
READY = Gauge("reelhaul_ready", "1 while the service reports SERVING")
ERRORS = Counter("reelhaul_errors_total", "errors answered to callers, by ErrorReason", ["reason"])
