"""``make chaos``: run the whole suite under load, kill its processes at random, and check the invariants.

Ends with one line, ``chaos ok accepted=<n> succeeded=<n> lost=0 doubled=0 stale=0 orphans=0 kills=…``, and
exit code 0; or with ``chaos FAILED …``, which names the broken invariant and the job, and exit code 1.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.harness import ChaosOptions, ChaosResult, run
from tests.chaos.links import enter_namespace
from tests.chaos.outages import OUTAGES
from tests.suite.suite import SuiteError

# The invariants that each count of the last line sums up.
_LOST = ("I1", "I9", "P2", "P4", "I6", "I8", "P1", "tenant", "responses")
_DOUBLED = ("I2",)
_STALE = ("I3", "I4", "I5", "transitions", "quota")
_ORPHANS = ("I10",)
_VIOLATIONS_SHOWN = 40


def main() -> int:
    """Run the test and print its result; return the exit code."""
    arguments = vars(_parse_arguments())
    keep, draws_outages = arguments.pop("keep"), arguments.pop("draw_outages")
    options = ChaosOptions(**arguments)
    outages: Sequence[str] = (options.scenario,) if options.scenario else ()
    if options.scenario:
        options = replace(options, **OUTAGES[options.scenario].options)
    elif draws_outages:
        outages = list(_drawn_outages(options.db, options.storage))
    if any(OUTAGES[name].needs == "links" for name in outages) and (reason := enter_namespace(sys.argv[1:])):
        print(f"chaos SKIP {options.scenario or 'partitions'}: {reason}")
        if options.scenario:
            return 0
        outages = [name for name in outages if OUTAGES[name].needs != "links"]
    return _run(replace(options, outages=tuple(outages)), keep=keep)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90, help="duration of load and faults")
    parser.add_argument("--seed", type=int, default=1, help="seed of load and faults")
    parser.add_argument("--db", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--storage", choices=["disk", "s3"], default="disk")
    parser.add_argument("--mutant", choices=["no-fence", "no-sweeper"], default="")
    parser.add_argument("--fetchers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=21)
    parser.add_argument(
        "--patience",
        type=float,
        default=60,
        help="seconds after the faults in which all jobs must end",
    )
    parser.add_argument(
        "--scenario", choices=sorted(OUTAGES), default="", help="one outage, no random faults"
    )
    parser.add_argument(
        "--outages", dest="draw_outages", action="store_true", help="draw outages beside the other faults"
    )
    parser.add_argument("--keep", action="store_true", help="keep the data of a successful run too")
    return parser.parse_args()


def _run(options: ChaosOptions, *, keep: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="reelhaul-chaos-"))
    where = f"db={options.db} storage={options.storage} in {folder}"
    print(f"chaos seed={options.seed} seconds={options.seconds:g} {where}", flush=True)
    try:
        result = run(options, folder)
    except SuiteError as error:
        print(f"chaos FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        print("chaos interrupted", file=sys.stderr)
        return 130
    _print_details(result)
    if not result.violations and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(_last_line(result, options), flush=True)
    return 1 if result.violations else 0


def _drawn_outages(db: str, storage: str) -> Iterator[str]:
    """Yield the outages that occur beside other faults in a run with *db* and *storage*."""
    # A cluster tells its clients addresses past the links.
    left_out = {"broker-leader"}
    for name, outage in OUTAGES.items():
        if name not in left_out and {"db": db, "storage": storage}.items() >= outage.options.items():
            yield name


def _last_line(result: ChaosResult, options: ChaosOptions) -> str:
    """Return the line that sums up the run; scripts parse it."""
    killed = ["jobs", "fetcher", "storage", "nats", *(["s3"] if options.storage == "s3" else [])]
    kills = ",".join(f"{process}:{result.kills[process]}" for process in killed)
    found = Counter(violation.invariant for violation in result.violations)

    def count(invariants: tuple[str, ...]) -> int:
        return sum(found[invariant] for invariant in invariants)

    counts = (
        f"accepted={result.accepted} succeeded={result.states['SUCCEEDED']} lost={count(_LOST)}"
        f" doubled={count(_DOUBLED)} stale={count(_STALE)} orphans={count(_ORPHANS)} kills={kills}"
    )
    if not result.violations:
        return f"chaos ok {counts}"
    first = result.violations[0]
    return f"chaos FAILED {first.invariant} job={first.job or '-'}: {first.text}; {counts}"


def _print_details(result: ChaosResult) -> None:
    states = " ".join(f"{name}={number}" for name, number in sorted(result.states.items()))
    print(
        f"jobs {states}; {result.stalls} stalls, {result.wipes} wipes, {result.stale_renewals_refused} stale"
        f" renewals refused; the quota ledger was checked {result.ledger_checks} times;"
        f" all jobs ended {result.recovery_seconds:.1f} s after the last fault"
    )
    if result.throttled is not None:
        print("S3 refused {} connections, delayed {}, and cut {} of these".format(*result.throttled))
    for each in result.recoveries:
        print(
            f"recovery from {each.outage}: a job succeeded {each.seconds:.1f} s after its creation,"
            f" before {each.usual_seconds:.1f} s"
        )
    print("calls", " ".join(f"{method}={times}" for method, times in sorted(result.calls.items())))
    for violation in result.violations[:_VIOLATIONS_SHOWN]:
        print(f"broken {violation.invariant} {violation.job or '-'}: {violation.text}")
    if len(result.violations) > _VIOLATIONS_SHOWN:
        print(f"… and {len(result.violations) - _VIOLATIONS_SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())
