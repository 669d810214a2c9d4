"""The zygote starts small, and loads the rest once it is used."""

from __future__ import annotations

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
from reelhaul_fetcher.ytdlp.process import child

def count_extractors():
    return sum(name.startswith("yt_dlp.extractor.") for name in sys.modules)

child.warm_up()
before = count_extractors()
steps = sum(1 for _ in child.prepare())
print(json.dumps({"before": before, "after": count_extractors(), "steps": steps}))
"""


def test_extractors_are_loaded_after_the_start() -> None:
    """A zygote that nobody uses has the extractors of few sites; after its preparation it has all of them."""
    output = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    counts = json.loads(output)
    assert counts["before"] < 50
    assert counts["after"] > 800
    # Short steps: between two of them the zygote answers.
    assert counts["steps"] > 1700
