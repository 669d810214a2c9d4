"""Remedies: what an operator does about a component that does not serve."""

from __future__ import annotations

from collections.abc import Mapping

_DATABASE = "start the database or correct {setting}; `reelhaul doctor` shows why it cannot be used"

#: By component, named as in reports and as its service names it.
REMEDIES: Mapping[str, str] = {
    "jobs": "look into the log of jobs; `reelhaul doctor` checks what it needs",
    "storage": "look into the log of storage; `reelhaul doctor` checks what it needs",
    "fetcher": "start a fetcher, or look into the log of fetcher; jobs are accepted and wait meanwhile",
    "gateway": "look into the log of gateway",
    "jobs.database": _DATABASE.format(setting="REELHAUL_JOBS_DATABASE_URL"),
    "storage.database": _DATABASE.format(setting="REELHAUL_STORAGE_DATABASE_URL"),
    "nats": "start the broker or correct REELHAUL_NATS_URL; running downloads continue meanwhile",
    "jobs.nats": "start the broker or correct REELHAUL_NATS_URL; running downloads continue meanwhile",
    "fetcher.nats": "start the broker or correct REELHAUL_NATS_URL; running downloads continue meanwhile",
    "storage.backend": "make REELHAUL_STORAGE_URL writable, and free space; `reelhaul doctor` checks both",
    "storage.write": "look at storage.backend and storage.database",
    "storage.integrity": "store the damaged artifacts again or delete them; then check the disk",
    "fetcher.engine": "`reelhaul doctor` and the log of fetcher say why the engine does not start",
    "fetcher.disk": "free space in REELHAUL_FETCHER_WORK_DIR, or lower REELHAUL_FETCHER_KEPT_BYTES",
    "fetcher.work": "restart the fetcher: it was drained, and takes work after a restart",
    "gateway.workers": "look into the log of gateway for the worker that ended",
}
CLOCKS = "synchronize the clocks of the machines, for example with chrony"
CERTIFICATE = "replace the file; services read it again by themselves"
ENGINE = "upgrade the engine: docs/operations.md, Upgrading the engine"
