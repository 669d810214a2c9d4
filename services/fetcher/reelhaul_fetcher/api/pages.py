"""Pages of any list."""

from __future__ import annotations

from reelhaul_runtime.errors import FieldInvalid

_DEFAULT_PAGE, _MAX_PAGE = 50, 1000


def page_size(size: int) -> int:
    """How many to tell at most. Raises FIELD_INVALID."""
    if size < 0:
        raise FieldInvalid("page_size", "it is negative")
    return min(size or _DEFAULT_PAGE, _MAX_PAGE)
