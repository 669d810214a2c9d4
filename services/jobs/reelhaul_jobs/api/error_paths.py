"""The same failure in the words of another request: its fields are called otherwise there."""

from __future__ import annotations

import re
from collections.abc import Callable

from reelhaul_runtime.errors import ReelhaulError, Violation


def renamed(error: ReelhaulError, name: Callable[[str], str]) -> ReelhaulError:
    """*error* with *name* of each field in place of the field."""
    fields = {violation.field for violation in error.violations if violation.field}
    # The longest first: job.format is the beginning of others.
    told = "|".join(re.escape(field) for field in sorted(fields, key=lambda field: -len(field)))
    text = (
        re.sub(rf"(?<![\w.])({told})(?=: )", lambda found: name(found[1]), error.text) if told else error.text
    )
    metadata = dict(error.metadata)
    if metadata.get("field"):
        metadata["field"] = name(metadata["field"])
    return ReelhaulError(
        error.reason,
        text,
        metadata=metadata,
        violations=[Violation(name(v.field), v.description) for v in error.violations],
        retry_delay=error.retry_delay,
        help_url=error.help_url,
    )


def at(place: str, error: ReelhaulError) -> ReelhaulError:
    """*error* of one of many requests, which stands at *place*, e.g. ``requests[3]``."""
    moved = renamed(error, lambda field: f"{place}.{field}" if field else place)
    return moved if moved.violations else _told_at(place, moved)


def _told_at(place: str, error: ReelhaulError) -> ReelhaulError:
    return ReelhaulError(
        error.reason,
        f"{place}: {error.text}",
        metadata=error.metadata,
        violations=[Violation(place, error.text)],
        retry_delay=error.retry_delay,
        help_url=error.help_url,
    )
