"""kill -9 of storage at random and at the steps of a write; the long form is ``make kill-storage``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.storage.kills.harness import KillTest


@pytest.mark.parametrize("backend", ["disk", "s3"])
async def test_kills(tmp_path: Path, backend: str, request: pytest.FixtureRequest):
    """Uploads resume, every artifact keeps its bytes, and garbage collection leaves nothing without owner."""
    s3 = request.getfixturevalue("s3_server") if backend == "s3" else None
    seed = random.randrange(1 << 32)
    result = await KillTest(tmp_path, random.Random(seed), s3).run(kills=6, patience=2)
    assert result.is_clean, (seed, result, result.problems, result.orphans, result.multipart)
    assert result.artifacts > 0
