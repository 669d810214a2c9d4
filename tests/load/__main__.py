"""``make load``: several replicas of everything on this machine under load, restarted and killed in turn.

Prints the report, writes it to a file as JSON, and ends with one line: ``load ok …`` and exit code 0, or
``load FAILED …`` and exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.load import report
from tests.load.run import LoadOptions, LoadResult, run
from tests.load.topology import TopologyError

from reelhaul_runtime.up import process

_SHORT = {"jobs": 20, "watchers": 90, "minutes": 0.3, "fetchers": 2, "download_seconds": 2.5}


def main() -> int:
    """Run, and return the exit code."""
    defaults = LoadOptions()
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a small load")
    parser.add_argument("--jobs", type=int, help=f"unfinished jobs at a time ({defaults.jobs})")
    parser.add_argument("--watchers", type=int, help=f"streams at a time ({defaults.watchers})")
    parser.add_argument("--minutes", type=float, help=f"of undisturbed load ({defaults.minutes:g})")
    parser.add_argument("--fetchers", type=int, help=f"processes ({defaults.fetchers})")
    parser.add_argument("--slots", type=int, help=f"of each fetcher ({defaults.slots})")
    parser.add_argument(
        "--download-seconds", type=float, help=f"of a download, on average ({defaults.download_seconds:g})"
    )
    parser.add_argument("--output", type=Path, default=Path("dist/load.json"), help="file of the report")
    parser.add_argument("--keep", action="store_true", help="keep the data and logs of a successful run too")
    arguments = vars(parser.parse_args())
    short, output, keep = (arguments.pop(name) for name in ("short", "output", "keep"))
    given = {name: value for name, value in arguments.items() if value is not None}
    options = LoadOptions(**{**(_SHORT if short else {}), **given})
    process.become_subreaper()
    # It logs each refused connection, with its traceback, while servers restart.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="reelhaul-load-"))
    print(f"load {options} in {folder}", flush=True)
    try:
        result = asyncio.run(_run_until_signal(options, folder))
    except (TopologyError, TimeoutError) as error:
        print(f"load FAILED: {error!r}; logs are in {folder}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("load interrupted", file=sys.stderr)
        return 130
    figures = report.summarize(options, result)
    report.print_report(figures, result)
    report.write(figures, output)
    passed = report.has_passed(result)
    if passed and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(report.last_line(result), flush=True)
    return 0 if passed else 1


async def _run_until_signal(options: LoadOptions, folder: Path) -> LoadResult:
    task = asyncio.ensure_future(run(options, folder))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
