"""Runs a file of transcoding test vectors: ``python -m tests.libs.conformance [VECTORS=path]``.

Where the rule book has a strict and a lenient option, a vector that expects a response runs
with the lenient one and a vector that expects an error with the strict one.

A vector of the strength ``decision``, on which gateways differ, is listed with the reason where this
transcoder answers otherwise; it counts as skipped.
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
    "path_template_vectors": cases.check_path,
    "invalid_templates": cases.check_invalid_template,
    "template_decisions": cases.check_template_decision,
    "query_vectors": cases.check_query,
    "query_filter_vectors": cases.check_query_filter,
    "status_vectors": cases.check_status,
    "body_vectors": cases.check_body,
    "update_mask_vectors": cases.check_update_mask,
    "grpc_timeout_vectors": cases.check_grpc_timeout,
    "header_vectors": cases.check_header,
    "health_vectors": cases.check_health,
    "stream_vectors": cases.check_stream,
    "routing_vectors": cases.check_routing,
}


# What decides where gateways differ.
_DECISIONS = {
    "path_template_vectors": "an empty segment, a trailing slash or a malformed escape is a mistake of the"
    " client, and matches nothing",
    "invalid_templates": "templates have the grammar of google/api/http.proto, and literals after **",
    "query_vectors": "what is ambiguous, or would be dropped in part, is an error instead of a guess",
}


@dataclass(frozen=True)
class Case:
    """One vector and its section."""

    section: str
    name: str
    vector: dict[str, Any]

    @property
    def optional(self) -> bool:
        """Whether a failure counts as skipped."""
        return self.vector.get("strength") == "optional"

    @property
    def decision(self) -> str:
        """Why a failure is no mistake but a decision; empty if it is a mistake."""
        return _DECISIONS.get(self.section, "") if self.vector.get("strength") == "decision" else ""

    def check(self) -> None:
        """Raise AssertionError if the vector fails, or cases.Skipped if it expects nothing."""
        _SECTIONS[self.section](self.vector)


def load_cases(path: Path) -> Iterator[Case]:
    """Yield the cases of the file at *path* in the sections that can be run."""
    for section, vectors in json.loads(path.read_text()).items():
        if section in _SECTIONS:
            for index, vector in enumerate(vectors):
                name = str(vector.get("id", f"{section.removesuffix('_vectors')}-{index + 1:03}"))
                yield Case(section, name, vector)


def main(arguments: list[str]) -> int:
    """Run the file that *arguments* name; return 0 if no case failed."""
    paths = [path for argument in arguments if (path := argument.removeprefix("VECTORS="))]
    passed = failed = skipped = 0
    for case in load_cases(Path(paths[0]) if paths else OWN_VECTORS):
        try:
            case.check()
            passed += 1
        except cases.Skipped:
            skipped += 1
        except Exception as error:
            if case.optional:
                skipped += 1
                continue
            if case.decision:
                skipped += 1
                print(f"{case.name} differs by decision: {case.decision}: {error!r}")
                continue
            failed += 1
            print(f"{case.name}: {error!r}")
    outcome = "FAILED" if failed else "ok"
    print(f"conformance {outcome} passed={passed} failed={failed} skipped={skipped}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
