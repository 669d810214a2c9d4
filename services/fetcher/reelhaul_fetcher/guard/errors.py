"""Why the guard does not forward a request: Refused (Malformed is one kind of it) | Unreachable."""

from __future__ import annotations

from reelhaul_runtime.addresses import Refused as Refused


class Malformed(Refused):
    """The message is not valid HTTP; nothing of it is forwarded."""


class Unreachable(Exception):
    """The request is allowed but failed. *status*: 502, 503 at the connection limit, 504 on a timeout."""

    def __init__(self, reason: str, status: int = 502) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
