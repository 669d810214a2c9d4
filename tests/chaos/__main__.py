"""``make chaos``: the whole suite under load, killed again and again; then, from outside, what came of it.

Ends with one line, ``chaos ok accepted=<n> succeeded=<n> lost=0 doubled=0 stale=0 orphans=0 kills=…``, and
exit code 0; or with ``chaos FAILED …``, which names the invariant and the job, and exit code 1.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos.harness import Asked, Outcome, run
from tests.suite.suite import SuiteError

#: What the counts of the last line are made of.
_LOST = ("I1", "I9", "P2", "P4", "I6", "I8", "P1", "tenant", "answers")
_DOUBLED = ("I2",)
_STALE = ("I3", "I4", "I5", "roads")
_ORPHANS = ("I10",)
_SHOWN = 40


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90, help="how long faults and load last")
    parser.add_argument("--seed", type=int, default=1, help="of load and faults")
    parser.add_argument("--db", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--mutant", choices=["no-fence", "no-sweeper"], default="")
    parser.add_argument("--fetchers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=21)
    parser.add_argument("--patience", type=float, default=60, help="seconds in which all must end afterwards")
    parser.add_argument("--keep", action="store_true", help="keep the data also where all is well")
    given = vars(parser.parse_args())
    keep = given.pop("keep")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="reelhaul-chaos-"))
    print(f"chaos seed={given['seed']} seconds={given['seconds']:g} db={given['db']} in {folder}", flush=True)
    try:
        outcome = run(Asked(**given), folder)
    except SuiteError as error:
        print(f"chaos FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        print("chaos interrupted", file=sys.stderr)
        return 130
    _tell(outcome)
    if not outcome.broken and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(last_line(outcome), flush=True)
    return 1 if outcome.broken else 0


def last_line(outcome: Outcome) -> str:
    """The one line that says it all."""
    kills = ",".join(f"{part}:{outcome.kills[part]}" for part in ("jobs", "fetcher", "storage", "nats"))
    found = Counter(each.invariant for each in outcome.broken)

    def count(names: tuple[str, ...]) -> int:
        return sum(found[name] for name in names)

    counts = (
        f"accepted={outcome.accepted} succeeded={outcome.states['SUCCEEDED']} lost={count(_LOST)}"
        f" doubled={count(_DOUBLED)} stale={count(_STALE)} orphans={count(_ORPHANS)} kills={kills}"
    )
    if not outcome.broken:
        return f"chaos ok {counts}"
    first = outcome.broken[0]
    return f"chaos FAILED {first.invariant} job={first.job or '-'}: {first.text}; {counts}"


def _tell(outcome: Outcome) -> None:
    states = " ".join(f"{name}={number}" for name, number in sorted(outcome.states.items()))
    print(
        f"ended {states}; {outcome.stalls} stalls, {outcome.wipes} wipes, {outcome.refused} false renewals"
        f" refused; all at rest {outcome.drain_seconds:.1f} s after the last fault"
    )
    print("done", " ".join(f"{method}={times}" for method, times in sorted(outcome.done.items())))
    for each in outcome.broken[:_SHOWN]:
        print(f"broken {each.invariant} {each.job or '-'}: {each.text}")
    if len(outcome.broken) > _SHOWN:
        print(f"… and {len(outcome.broken) - _SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())
