"""What this build does not do yet: refused in words, never left out in silence."""

from __future__ import annotations

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.errors import ReelhaulError


def check(spec: FormatSpec) -> None:
    """Raise METHOD_UNSUPPORTED where *spec* asks for what cannot be done here."""
    asked = {
        "selector": bool(spec.selector),
        "live": spec.live.mode in (FormatSpec.Live.WAIT, FormatSpec.Live.RECORD),
    }
    if unserved := [name for name, wanted in asked.items() if wanted]:
        raise ReelhaulError(
            ErrorReason.METHOD_UNSUPPORTED,
            f"format.{unserved[0]} is not served by this build yet",
            metadata={"method": f"format.{unserved[0]}"},
        )
