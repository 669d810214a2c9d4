"""``make audit``: look up known vulnerabilities of every locked package with pip-audit.

Ends with one line: ``audit ok packages=<n>``, ``audit FAILED vulnerabilities=<n>`` with exit code 1, or
``audit SKIPPED: <reason>`` with exit code 0 where no advisory service can be reached.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: bench.txt contains run.txt and dev.txt.
LOCKS = ("bench.txt", "build.txt", "pip.txt", "audit.txt")
_TIMEOUT_SECONDS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit the lock files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__.splitlines()[0])
    parser.add_argument("locks", nargs="*", type=Path, help="lock files with hashes; default: all")
    locks = parser.parse_args(arguments).locks or [ROOT / "requirements" / name for name in LOCKS]
    found, problem = audit(locks)
    if problem:
        print("NOT ONE package was compared with any list of known vulnerabilities", file=sys.stderr)
        print(f"audit SKIPPED: {problem}")
        return 0
    packages = {f"{each['name']} {each.get('version', '')}": each for each in found}
    known = {name: each for name, each in packages.items() if "skip_reason" not in each}
    if not known:
        print("audit SKIPPED: the advisory service knows none of the packages")
        return 0
    for name, each in packages.items():
        if "skip_reason" in each:
            print(f"not audited: {name}: {each['skip_reason']}")
        for vulnerability in each.get("vulns", ()):
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{name}: {vulnerability['id']}, fixed in {fixed}")
    count = sum(len(each["vulns"]) for each in known.values())
    print(f"audit FAILED vulnerabilities={count}" if count else f"audit ok packages={len(known)}")
    return int(count > 0)


def audit(locks: Sequence[Path]) -> tuple[list[dict[str, Any]], str]:
    """Return what pip-audit says of each package of *locks*, or why it could not be done."""
    # Nothing is resolved or installed: the locks name every version, with hashes.
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
    command += ["--disable-pip", "--require-hashes"]
    command += [argument for lock in locks for argument in ("--requirement", str(lock))]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
        )
        return json.loads(process.stdout)["dependencies"], ""
    except subprocess.TimeoutExpired:
        return [], f"pip-audit did not end within {_TIMEOUT_SECONDS} s"
    except ValueError:
        lines = process.stderr.strip().splitlines() or [f"pip-audit ended with {process.returncode}"]
        return [], lines[-1][:300]


if __name__ == "__main__":
    raise SystemExit(main())
