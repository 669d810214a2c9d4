"""Conversion between the messages of LeaseService and the model, with the bounds of what workers send."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

from google.protobuf import duration_pb2
from google.protobuf.message import Message

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2
from reelhaul.work.v1.lease_service_pb2 import (
    ClaimRequest,
    ClaimResponse,
    ExchangeRequest,
    FinishRequest,
    FinishResponse,
    RenewRequest,
    RenewResponse,
)
from reelhaul_jobs.api import fields
from reelhaul_jobs.model import leases
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.results import LeaseGrant, LeaseReceipt, LeaseRenewal
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.transition import Refusal, RefusalReason
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_TEXT = 256
_MAX_EGRESS = 64
_MAX_EGRESSES = 32
_MAX_SITE = 255
_MAX_TITLE = 500
_MAX_MEDIA_ID = 1000
_MAX_CODE = 64
# Characters of the texts of media; workers send no longer ones.
_MAX_MEDIA_TEXTS = {
    "extractor": 200,
    "media_id": _MAX_MEDIA_ID,
    "url": 8192,
    "title": _MAX_TITLE,
    "description": 5000,
    "uploader": 200,
    "thumbnail_url": 8192,
    "original_language_code": _MAX_CODE,
}
# Of the detail of progress and the message of a warning.
_MAX_MESSAGE = 500
_MAX_ARTIFACTS = 500
_MAX_ENTRIES = 500
_MAX_CALLS = 256
_MAX_WARNINGS = 100
_MAX_HTTP_STATUSES = 100
_MAX_DELAY_SECONDS = 10**9
_MAX_RECEIVED_BYTES = 10**15
# The row is read for each change: what only a full view shows must not make it heavy.
_MAX_MEDIA_BYTES = 512 * 1024
_MAX_DELIVERED_BYTES = 64 * 1024
_MAX_ARTIFACT_BYTES = 8 * 1024
# A worker's own failures have at most 4 KiB, as they must fit into a trailer.
_MAX_STATUS_BYTES = 16 * 1024

# Reasons for handing a job back that its user is told.
_RELEASE_ERRORS = {
    FinishRequest.Released.DISK: (ErrorReason.WORKER_DISK_FULL, "the worker ran short of disk space"),
    FinishRequest.Released.LIVE_NOT_BEGUN: (ErrorReason.MEDIA_NOT_LIVE_YET, "the event has not begun"),
}


def claim_from_request(request: ClaimRequest, lease: timedelta) -> leases.Claim:
    """Return what the worker asks for."""
    slot = request.slot
    return leases.Claim(
        attempt=request.attempt,
        worker=fields.check_text(request.worker, "worker", _MAX_TEXT, required=True),
        request_id=fields.check_text(request.request_id, "request_id", 64, required=True),
        engine_version=fields.check_text(slot.engine_version, "slot.engine_version", _MAX_TEXT),
        lease=lease,
        egress=fields.check_text(slot.egress, "slot.egress", _MAX_EGRESS),
        other_egresses=_other_egresses(slot),
    )


def media_from_request(request: RenewRequest) -> media_pb2.MediaInfo | None:
    """Return what the worker read of the media; None if it sent nothing."""
    return _limit_media(request.media) if request.HasField("media") else None


def entries_from_request(request: RenewRequest) -> Sequence[media_pb2.PlaylistEntry]:
    """Return the entries found; one whose URL no job may have comes without it."""
    if len(request.entries) > _MAX_ENTRIES:
        raise FieldInvalid("entries", f"must have at most {_MAX_ENTRIES} elements")
    for entry in request.entries:
        violations = FieldViolations()
        urls.check_url(entry.url, "entries.url", violations)
        if violations or "\0" in entry.media_id:
            entry.ClearField("url")
        if len(entry.media_id) > _MAX_MEDIA_ID:
            # Its beginning may be the id of another entry; the URL tells them apart.
            entry.ClearField("media_id")
        entry.title = entry.title[:_MAX_TITLE]
    return request.entries


def progress_from_request(request: RenewRequest | FinishRequest) -> media_pb2.Progress | None:
    """Return the progress; None if the worker sent none."""
    if not request.HasField("progress"):
        return None
    request.progress.detail = request.progress.detail[:_MAX_MESSAGE]
    return request.progress


def outcome_from_request(request: FinishRequest) -> leases.Outcome:
    """Return how the lease ended."""
    return leases.Outcome(
        result=_result_from_request(request),
        progress=progress_from_request(request),
        http_statuses=dict(list(request.http_statuses.items())[:_MAX_HTTP_STATUSES]),
        received_bytes=min(request.ingress_bytes, _MAX_RECEIVED_BYTES) if request.ingress_bytes > 0 else None,
    )


def calls_from_request(request: ExchangeRequest) -> Sequence[ExchangeRequest.Call]:
    """Return the calls of an exchange, each with a request."""
    if not 1 <= len(request.calls) <= _MAX_CALLS:
        raise FieldInvalid(
            "calls", f"must have between 1 and {_MAX_CALLS} elements, not {len(request.calls)}"
        )
    if any(call.WhichOneof("request") is None for call in request.calls):
        raise FieldInvalid("calls.request", "one must be set")
    return request.calls


def claim_response(result: LeaseGrant | Refusal) -> ClaimResponse:
    """Return the lease, or the refusal."""
    if isinstance(result, Refusal):
        return ClaimResponse(refusal=_refusal_to_proto(result))
    job = result.job
    lease = lease_pb2.Lease(
        epoch=job.epoch,
        lease_duration=fields.to_duration(result.duration),
        spec=lease_pb2.FetchSpec(
            url=job.url,
            format=job.format,
            attempt_deadline=fields.to_duration(job.attempt_deadline),
            tenant=job.tenant,
            labels=job.labels,
            traceparent=spans.attempt_context(job.traceparent, job.id, job.epoch),
            expansion=_expansion_to_proto(job),
            recording_stopped=job.recording_stop_time is not None,
            # The list's title of the entry, or that which an earlier attempt read.
            title=job.media.title if job.parent and job.media else "",
        ),
        resume=_resume_hints(result),
        egress=job.egress,
    )
    return ClaimResponse(lease=lease)


def renew_response(result: LeaseRenewal | Refusal) -> RenewResponse:
    """Return the renewal, or the refusal."""
    if isinstance(result, Refusal):
        return RenewResponse(refusal=_refusal_to_proto(result))
    renewal = lease_pb2.Renewal(
        lease_duration=fields.to_duration(result.duration),
        lease_expire_time=fields.to_timestamp(result.expire_time),
        cancel_requested=result.cancel_requested,
        stop_recording=result.stop_recording,
    )
    return RenewResponse(renewal=renewal)


def finish_response(result: LeaseReceipt | Refusal) -> FinishResponse:
    """Return the receipt, or the refusal."""
    if isinstance(result, Refusal):
        return FinishResponse(refusal=_refusal_to_proto(result))
    receipt = lease_pb2.Receipt(
        commit_time=fields.to_timestamp(result.time),
        revision=result.revision,
        repeated_call=result.repeated,
        cancelled=result.cancelled,
        job_ended=result.ended,
    )
    return FinishResponse(receipt=receipt)


def _other_egresses(slot: lease_pb2.Slot) -> tuple[str, ...]:
    field = "slot.other_egresses"
    if len(slot.other_egresses) > _MAX_EGRESSES:
        raise FieldInvalid(field, f"must have at most {_MAX_EGRESSES} elements")
    return tuple(fields.check_text(name, field, _MAX_EGRESS, required=True) for name in slot.other_egresses)


def _result_from_request(
    request: FinishRequest,
) -> leases.Succeeded | leases.Failed | leases.Cancelled | leases.Released:
    match request.WhichOneof("outcome"):
        case "succeeded":
            return _succeeded(request.succeeded)
        case "failed":
            return _failed(request.failed)
        case "cancelled":
            return leases.Cancelled()
        case "released":
            return _released(request.released)
        case _:
            raise FieldInvalid("outcome", "one must be set")


def _succeeded(message: FinishRequest.Succeeded) -> leases.Succeeded:
    if len(message.artifacts) > _MAX_ARTIFACTS:
        raise FieldInvalid("succeeded.artifacts", f"must have at most {_MAX_ARTIFACTS} elements")
    for artifact in message.artifacts:
        _check_size(artifact, "succeeded.artifacts", _MAX_ARTIFACT_BYTES)
    _check_size(message.got, "succeeded.got", _MAX_DELIVERED_BYTES)
    return leases.Succeeded(
        media=_limit_media(message.media),
        got=message.got if message.HasField("got") else None,
        artifacts=tuple(message.artifacts),
        warnings=tuple(map(_limit_warning, message.warnings[:_MAX_WARNINGS])),
    )


def _failed(message: FinishRequest.Failed) -> leases.Failed:
    hint = message.retry_hint
    _check_size(message.status, "failed.status", _MAX_STATUS_BYTES)
    return leases.Failed(
        error=message.status,
        retry_after=_to_delay(hint.retry_delay) if hint.HasField("retry_delay") else None,
        site=fields.check_text(hint.site, "failed.retry_hint.site", _MAX_SITE),
        egress=fields.check_text(hint.egress, "failed.retry_hint.egress", _MAX_EGRESS),
        avoid_worker=hint.avoid_worker,
    )


def _released(message: FinishRequest.Released) -> leases.Released:
    error = _RELEASE_ERRORS.get(message.reason)
    return leases.Released(
        delay=_to_delay(message.retry_delay), error=None if error is None else error_status(*error)
    )


def _to_delay(duration: duration_pb2.Duration) -> timedelta:
    # Clamped to what a timedelta holds and to no less than 0: a worker's mistake must not lose its outcome.
    return timedelta(seconds=min(max(duration.seconds, 0), _MAX_DELAY_SECONDS))


def _limit_media(media: media_pb2.MediaInfo) -> media_pb2.MediaInfo:
    """Return *media* with its texts cut, and without its lists where it is too large for the row."""
    limited = media_pb2.MediaInfo()
    limited.CopyFrom(media)
    for name, limit in _MAX_MEDIA_TEXTS.items():
        if len(text := getattr(media, name)) > limit:
            setattr(limited, name, text[:limit])
    if limited.ByteSize() > _MAX_MEDIA_BYTES:
        limited.ClearField("formats")
        limited.ClearField("entries")
    if limited.ByteSize() > _MAX_MEDIA_BYTES:
        limited.ClearField("subtitle_tracks")
        limited.ClearField("chapters")
    return limited


def _limit_warning(warning: media_pb2.Warning) -> media_pb2.Warning:
    return media_pb2.Warning(
        reason=warning.reason,
        message=warning.message[:_MAX_MESSAGE],
        language_code=warning.language_code[:_MAX_CODE],
    )


def _check_size(message: Message, field: str, limit: int) -> None:
    if message.ByteSize() > limit:
        raise FieldInvalid(field, f"must have at most {limit} bytes")


def _expansion_to_proto(job: Job) -> lease_pb2.ExpansionSpec | None:
    if job.expansion is None:
        return None
    return lease_pb2.ExpansionSpec(
        max_entries=job.expansion.max_entries, start_position=job.expansion.last_position
    )


def _resume_hints(grant: LeaseGrant) -> lease_pb2.ResumeHints | None:
    before = grant.before
    if before is None or before.epoch == 0:
        return None
    return lease_pb2.ResumeHints(
        previous_worker=before.worker,
        previous_epoch=before.epoch,
        downloaded_bytes=before.progress.downloaded_bytes if before.progress else 0,
        media=before.media,
        last_error=before.error,
    )


def _refusal_to_proto(refusal: Refusal) -> lease_pb2.Refusal:
    return lease_pb2.Refusal(
        reason=cast("lease_pb2.Refusal.Reason.ValueType", refusal.reason),
        retry_delay=None if refusal.retry_delay is None else fields.to_duration(refusal.retry_delay),
        lease_expire_time=fields.to_timestamp(refusal.lease_expire_time),
        message=refusal.message,
        job_ended=refusal.job_ended or refusal.reason in (RefusalReason.ENDED, RefusalReason.UNKNOWN),
    )
