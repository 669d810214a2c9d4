"""Why the guard does not carry something: Refused (of which Malformed is one kind) | Unreachable."""

from __future__ import annotations


class Refused(Exception):
    """The rules do not let this through. *why* is one word, for the answer's header and the pass's record."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Malformed(Refused):
    """A message that is not HTTP as it must be; nothing of it is passed on."""


class Unreachable(Exception):
    """What may be reached, but not now. *status* is 502, 503 for want of room, 504 where time ran out."""

    def __init__(self, why: str, status: int = 502) -> None:
        super().__init__(why)
        self.why = why
        self.status = status
