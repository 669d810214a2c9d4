"""Values of labels whose number callers or sites control: the first ones are kept, the rest are one value."""

from __future__ import annotations

#: The label of all values beyond the limit.
OTHER = "other"


class BoundedLabel:
    """The values of a label: the first *limit* that occur keep their names."""

    def __init__(self, limit: int = 100) -> None:
        self._limit, self._values = limit, set[str]()

    def bound(self, value: str) -> str:
        """Return *value*, or OTHER if there are too many already."""
        if value in self._values:
            return value
        if len(self._values) >= self._limit:
            return OTHER
        self._values.add(value)
        return value


#: The sites of this process.
SITES = BoundedLabel(100)
