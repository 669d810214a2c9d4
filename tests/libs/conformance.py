"""Runs a file of transcoding cases: ``python -m tests.libs.conformance [VECTORS=path]``.

Where the rule book knows a strict and a lenient switch, a case that expects an answer is run
with the lenient one and a case that expects an error with the strict one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.libs import cases

OWN_VECTORS = Path(__file__).parent / "transcoding.json"
_SECTIONS = {
    "path_template_vectors": cases.path,
    "invalid_templates": cases.invalid_template,
    "template_decisions": cases.template_decision,
    "query_vectors": cases.query,
    "query_filter_vectors": cases.query_filter,
    "status_vectors": cases.status,
    "body_vectors": cases.body,
    "update_mask_vectors": cases.update_mask,
    "grpc_timeout_vectors": cases.grpc_timeout,
    "header_vectors": cases.header,
    "health_vectors": cases.health,
    "stream_vectors": cases.stream,
    "routing_vectors": cases.routing,
}


@dataclass(frozen=True)
class Case:
    """One vector and where it stands."""

    section: str
    name: str
    vector: dict[str, Any]

    @property
    def optional(self) -> bool:
        """Whether it may be left out."""
        return self.vector.get("strength") == "optional"

    def check(self) -> None:
        """Raise AssertionError unless we answer as expected, and cases.Skipped where nothing is."""
        _SECTIONS[self.section](self.vector)


def cases_of(path: Path) -> Iterator[Case]:
    """All cases of the file at *path* that we know how to run."""
    for section, vectors in json.loads(path.read_text()).items():
        if section in _SECTIONS:
            for place, vector in enumerate(vectors):
                name = str(vector.get("id", f"{section.removesuffix('_vectors')}-{place + 1:03}"))
                yield Case(section, name, vector)


def main(arguments: list[str]) -> int:
    """Run the file that *arguments* name; 0 where nothing failed."""
    named = [argument.removeprefix("VECTORS=") for argument in arguments if argument.removeprefix("VECTORS=")]
    passed = failed = skipped = 0
    for case in cases_of(Path(named[0]) if named else OWN_VECTORS):
        try:
            case.check()
            passed += 1
        except cases.Skipped:
            skipped += 1
        except Exception as error:
            if case.optional:
                skipped += 1
                continue
            failed += 1
            print(f"{case.name}: {error!r}")
    outcome = "FAILED" if failed else "ok"
    print(f"conformance {outcome} passed={passed} failed={failed} skipped={skipped}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
