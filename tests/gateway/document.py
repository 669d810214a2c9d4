"""The OpenAPI document of the gateway, without a running one: ``python -m tests.gateway.document <file>``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from reelhaul_gateway.openapi import build_document
from reelhaul_gateway.settings import Settings
from reelhaul_gateway.transcoding import SERVICES, build_transcoder
from reelhaul_transcoding.upstream import InProcessUpstream

#: The copy in the repository, for readers and for generators of clients.
COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def build() -> dict[str, Any]:
    """Return the document that the gateway serves."""
    return build_document(build_transcoder(Settings(), dict.fromkeys(SERVICES, InProcessUpstream({}))))


def to_text(document: dict[str, Any]) -> str:
    """Return *document* as the repository holds it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(to_text(build()))
