"""kill -9 of storage at random and at the steps of a write; the long form is ``make kill-storage``."""

from __future__ import annotations

import random
from pathlib import Path

from tests.storage.kills.harness import KillTest


async def test_kills_on_disk(tmp_path: Path):
    """Uploads resume, every artifact keeps its bytes, and garbage collection leaves no file without owner."""
    seed = random.randrange(1 << 32)
    result = await KillTest(tmp_path, random.Random(seed)).run(kills=10)
    assert result.is_clean, (seed, result, result.problems, result.orphans)
    assert result.artifacts > 0
