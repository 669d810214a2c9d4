"""Exit codes of the server commands."""

from __future__ import annotations

OK, FAILED = 0, 1
#: A setting is wrong, or what it names cannot be used.
REFUSED = 2
#: A second signal ended a suite that drained.
KILLED = 130
