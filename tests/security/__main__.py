"""``make attack``: fuzz the parsers of untrusted input, try polyglot files, then attack a running suite.

Ends with one line, ``attack ok parsers=<n> inputs=<n> idle=<n> honest_ratio=<x>``, and exit code 0; or with
``attack FAILED …``, which names what is wrong, and exit code 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from tests.security.fuzz import fuzz, run_one, targets
from tests.security.load import attack_suite
from tests.sites.site import running_site
from tests.suite.suite import SuiteError

# The table of files that are also manifests.
_POLYGLOTS = Path(__file__).with_name("test_native_tools.py")
# An honest download beside hostile ones shares two cores with them.
_MAX_HONEST_RATIO = 3.0


def main() -> int:
    """Run the attacks and print their results; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.security", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="duration of the fuzzing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="fuzz only the parsers whose name contains this")
    parser.add_argument("--replay", default="", help="the seed of one input, as a finding names it")
    parser.add_argument("--idle", type=int, default=1000, help="idle connections")
    parser.add_argument("--no-suite", action="store_true", help="fuzz only")
    options = parser.parse_args()
    if options.replay:
        findings = [run_one(target, options.replay) for target in targets() if options.only in target.name]
        print("\n".join(str(finding) for finding in findings if finding) or "no finding")
        return int(any(findings))
    print(f"attack seed={options.seed} fuzzing for {options.seconds:g} s", flush=True)
    result = fuzz(options.seconds, options.seed, options.only)
    problems = []
    for finding in result.findings:
        print(f"  {finding.target}, --replay {finding.seed}: {finding.problem}", flush=True)
        problems.append(f"{finding.target}: {finding.problem}")
    counts = f"parsers={result.parsers} inputs={result.inputs}"
    print(f"fuzzed {counts}", flush=True)
    if options.no_suite:
        counts += " idle=none honest_ratio=none"
    else:
        if subprocess.run([sys.executable, "-m", "pytest", str(_POLYGLOTS)], check=False).returncode:
            problems.append(f"{_POLYGLOTS.name} fails")
        folder = Path(tempfile.mkdtemp(prefix="reelhaul-attack-"))
        try:
            with running_site() as site:
                load = attack_suite(folder, site, options.idle)
        except (SuiteError, OSError, httpx.HTTPError, AssertionError) as error:
            print(f"attack FAILED {counts}: {error}")
            return 1
        counts += f" idle={load.idle} honest_ratio={load.honest_ratio:.2f}"
        problems += load.problems
        if load.honest_ratio > _MAX_HONEST_RATIO:
            problems.append(f"an honest download takes {load.honest_ratio:.1f} times its usual time")
        if not problems:
            shutil.rmtree(folder, ignore_errors=True)
    if problems:
        print(f"attack FAILED {counts}: {'; '.join(problems[:5])}")
        return 1
    print(f"attack ok {counts}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
