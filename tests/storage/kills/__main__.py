"""``make kill-storage``: kill a storage service at random while clients use it, and inspect what is left.

Ends with one line, ``storage kills=<n> backend=<name> corrupt=0 orphans=0 multipart=0``, and exit code 0 if
nothing was damaged, left or lost; else with exit code 1, after lines that name what was.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.s3_server import running_s3_server
from tests.storage.kills.harness import FAILPOINTS, KillTest

# With so many kills, some are at failpoints.
_KILLS_WITH_FAILPOINTS = 50


def main() -> int:
    """Run the test and print its result; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.storage.kills", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--backend", choices=["disk", "s3"], default="disk")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="seed of writes and kills")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reelhaul-kills-"))
    with ExitStack() as stack:
        s3 = stack.enter_context(running_s3_server(folder / "s3")) if options.backend == "s3" else None
        test = KillTest(folder / "data", random.Random(options.seed), s3)
        result = asyncio.run(test.run(options.kills))
    for problem in [*result.problems, *result.orphans, *result.multipart]:
        print(f"  {problem}", file=sys.stderr)
    ways = " ".join(f"{way}={count}" for way, count in sorted(result.written.items()))
    print(f"artifacts={result.artifacts} {ways}")
    print(" ".join(f"{name}={result.failpoints[name]}" for name in FAILPOINTS))
    print(result)
    if options.kills >= _KILLS_WITH_FAILPOINTS and not result.failpoints:
        print("no failpoint was hit: the test does not test what it should", file=sys.stderr)
        return 1
    if not result.is_clean:
        print(f"the data is kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
