"""Ids of jobs, batches, keys and events, which sort by creation time."""

from __future__ import annotations

from reelhaul_runtime.uuid7 import new_id, new_ids

__all__ = ["new_id", "new_ids"]
