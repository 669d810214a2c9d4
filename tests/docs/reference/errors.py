"""docs/errors.md: every reason of an error, from ``ErrorReason`` and the remedies of the library."""

from __future__ import annotations

from google.rpc import code_pb2
from tests.docs.reference.markdown import heading, table
from tests.docs.reference.protos import Protos

from reelhaul.remedies import REMEDIES
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import error_spec
from reelhaul_transcoding.http.status import http_status_of

_INTRODUCTION = """
An error is a `google.rpc.Status`, over gRPC and, in JSON, over HTTP. Its first detail is an `ErrorInfo` of
the domain `reelhaul.dev`, whose `reason` is the word to branch on; the message is for people and may
change. The same reasons say why a job failed (`Job.error`, and `error` of a download).
[gateway.md](gateway.md#errors) says how the HTTP status is chosen.

*Retry* says whether the same request can succeed later without a change: `yes` for a call that the caller
repeats and for a job that the suite tries again; a number is the most such tries of a job. The site is
*parked* after `UPSTREAM_THROTTLED` and `UPSTREAM_BLOCKED`: other jobs of it wait. New reasons may be added:
treat an unknown one by its code.
"""


def page() -> str:
    """Return docs/errors.md."""
    protos = Protos.load()
    names = [name for name, number in ErrorReason.items() if number]
    summary = [_row(name) for name in names]
    parts = [
        heading("Errors", "protos/reelhaul/type/v1/error_reason.proto and reelhaul.remedies", _INTRODUCTION),
        table(("reason", "code", "HTTP", "retry", "metadata"), summary),
    ]
    for name in names:
        meaning = protos.comment(f"reelhaul.type.v1.ErrorReason.{name}")
        parts.append(f"## {name}\n\n{meaning}\n\n**What to do:** {REMEDIES[name]}\n")
    return "\n".join(parts)


def _row(name: str) -> tuple[str, ...]:
    spec = error_spec(ErrorReason.Value(name))
    retry = (str(spec.max_retries) if spec.max_retries else "yes") if spec.retryable else "no"
    metadata = ", ".join(f"`{key}`" for key in spec.metadata_keys)
    return (
        f"[{name}](#{name.lower()})",
        f"`{code_pb2.Code.Name(spec.code)}`",
        str(spec.http_status or http_status_of(spec.code)),
        retry,
        metadata,
    )
