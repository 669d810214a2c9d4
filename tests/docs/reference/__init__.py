"""The references that are generated, by the name of their page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.docs.reference import errors, events, rest, rpc

PAGES: Mapping[str, Callable[[], str]] = {
    "rest.md": rest.page,
    "grpc.md": rpc.page,
    "errors.md": errors.page,
    "events.md": events.page,
}
