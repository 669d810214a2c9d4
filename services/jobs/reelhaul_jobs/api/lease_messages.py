"""LeaseService's messages <-> model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

from google.protobuf import duration_pb2

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
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.transition import Refusal
from reelhaul_jobs.service.leases import Leased, Receipt, Renewed
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

_LONGEST_TEXT = 256
_LONGEST_EGRESS = 64
_MOST_EGRESSES = 32
_LONGEST_SITE = 255
_LONGEST_TITLE = 500
_MOST_ARTIFACTS = 500
_MOST_ENTRIES = 500
_MOST_CALLS = 256
# A row is read for each change: what only a full view shows may not weigh it down.
_HEAVIEST_MEDIA = 512 * 1024


def claim_of(request: ClaimRequest, lease: timedelta) -> leases.Claim:
    """What the worker asks for."""
    slot = request.slot
    return leases.Claim(
        attempt=request.attempt,
        worker=fields.text(request.worker, "worker", _LONGEST_TEXT, required=True),
        request_id=fields.text(request.request_id, "request_id", 64, required=True),
        engine_version=fields.text(slot.engine_version, "slot.engine_version", _LONGEST_TEXT),
        lease=lease,
        egress=fields.text(slot.egress, "slot.egress", _LONGEST_EGRESS),
        other_egresses=_other_egresses(slot),
    )


def _other_egresses(slot: lease_pb2.Slot) -> tuple[str, ...]:
    if len(slot.other_egresses) > _MOST_EGRESSES:
        raise FieldInvalid("slot.other_egresses", f"at most {_MOST_EGRESSES}")
    field = "slot.other_egresses"
    return tuple(fields.text(name, field, _LONGEST_EGRESS, required=True) for name in slot.other_egresses)


def media_of(request: RenewRequest) -> media_pb2.MediaInfo | None:
    """What the worker read of the media, if it tells now."""
    return _light(request.media) if request.HasField("media") else None


def entries_of(request: RenewRequest) -> Sequence[media_pb2.PlaylistEntry]:
    """The entries found; one whose URL no job may have is told without it."""
    if len(request.entries) > _MOST_ENTRIES:
        raise FieldInvalid("entries", f"at most {_MOST_ENTRIES}")
    for entry in request.entries:
        findings = FieldViolations()
        urls.check_url(entry.url, "entries.url", findings)
        if findings or "\0" in entry.media_id:
            entry.ClearField("url")
        entry.title = entry.title[:_LONGEST_TITLE]
    return request.entries


def progress_of(request: RenewRequest | FinishRequest) -> media_pb2.Progress | None:
    """The progress told; None if it was not."""
    return request.progress if request.HasField("progress") else None


def outcome_of(request: FinishRequest) -> leases.Outcome:
    """How the lease ended, as its worker says."""
    return leases.Outcome(
        result=_result(request),
        progress=progress_of(request),
        http_statuses=dict(list(request.http_statuses.items())[:100]),
    )


def calls_of(request: ExchangeRequest) -> Sequence[ExchangeRequest.Call]:
    """What is asked for at once; each is one of the kinds that may be."""
    if not 1 <= len(request.calls) <= _MOST_CALLS:
        raise FieldInvalid("calls", f"1..{_MOST_CALLS} of them, not {len(request.calls)}")
    if any(call.WhichOneof("request") is None for call in request.calls):
        raise FieldInvalid("calls.request", "one must be set")
    return request.calls


def claim_response(answer: Leased | Refusal) -> ClaimResponse:
    """The lease, or the refusal."""
    if isinstance(answer, Refusal):
        return ClaimResponse(refusal=_refusal(answer))
    job = answer.job
    lease = lease_pb2.Lease(
        epoch=job.epoch,
        lease_duration=fields.duration(answer.duration),
        spec=lease_pb2.FetchSpec(
            url=job.url,
            format=job.format,
            attempt_deadline=fields.duration(job.attempt_deadline),
            tenant=job.tenant,
            labels=job.labels,
            traceparent=job.traceparent,
            expansion=_expansion(job),
            recording_stopped=job.recording_stop_time is not None,
        ),
        resume=_hints(answer),
        egress=job.egress,
    )
    return ClaimResponse(lease=lease)


def _expansion(job: Job) -> lease_pb2.ExpansionSpec | None:
    if job.expansion is None:
        return None
    return lease_pb2.ExpansionSpec(
        max_entries=job.expansion.max_entries, start_position=job.expansion.last_position
    )


def renew_response(answer: Renewed | Refusal) -> RenewResponse:
    """The renewal, or the refusal."""
    if isinstance(answer, Refusal):
        return RenewResponse(refusal=_refusal(answer))
    renewal = lease_pb2.Renewal(
        lease_duration=fields.duration(answer.duration),
        lease_expire_time=fields.stamp(answer.expire_time),
        cancel_requested=answer.cancel_requested,
        stop_recording=answer.stop_recording,
    )
    return RenewResponse(renewal=renewal)


def finish_response(answer: Receipt | Refusal) -> FinishResponse:
    """The receipt, or the refusal."""
    if isinstance(answer, Refusal):
        return FinishResponse(refusal=_refusal(answer))
    receipt = lease_pb2.Receipt(
        commit_time=fields.stamp(answer.time),
        revision=answer.revision,
        repeated_call=answer.repeated,
        cancelled=answer.cancelled,
    )
    return FinishResponse(receipt=receipt)


def _result(
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


def _succeeded(told: FinishRequest.Succeeded) -> leases.Succeeded:
    if len(told.artifacts) > _MOST_ARTIFACTS:
        raise FieldInvalid("succeeded.artifacts", f"at most {_MOST_ARTIFACTS}")
    return leases.Succeeded(
        media=_light(told.media),
        got=told.got if told.HasField("got") else None,
        artifacts=tuple(told.artifacts),
        warnings=tuple(told.warnings[:100]),
    )


def _released(told: FinishRequest.Released) -> leases.Released:
    delay, cause = _delay(told.retry_delay), _CAUSES.get(told.reason)
    return leases.Released(delay=delay, error=None if cause is None else error_status(*cause))


# Why a job was handed back, where its user is to hear of it.
_CAUSES = {
    FinishRequest.Released.DISK: (ErrorReason.WORKER_DISK_FULL, "the worker ran short of disk space"),
    FinishRequest.Released.LIVE_NOT_BEGUN: (ErrorReason.MEDIA_NOT_LIVE_YET, "the event has not begun"),
}


def _failed(told: FinishRequest.Failed) -> leases.Failed:
    hint = told.retry_hint
    asked = _delay(hint.retry_delay) if hint.HasField("retry_delay") else None
    return leases.Failed(
        error=told.status,
        retry_after=asked,
        site=fields.text(hint.site, "failed.retry_hint.site", _LONGEST_SITE),
        egress=fields.text(hint.egress, "failed.retry_hint.egress", _LONGEST_EGRESS),
        avoid_worker=hint.avoid_worker,
    )


def _delay(value: duration_pb2.Duration) -> timedelta:
    # Beyond what a timedelta holds, or below nothing: a worker's slip must not lose its outcome.
    return timedelta(seconds=min(max(value.seconds, 0), 10**9))


def _light(media: media_pb2.MediaInfo) -> media_pb2.MediaInfo:
    if media.ByteSize() <= _HEAVIEST_MEDIA:
        return media
    light = media_pb2.MediaInfo()
    light.CopyFrom(media)
    for heavy in ("formats", "entries"):
        light.ClearField(heavy)
    return light


def _hints(answer: Leased) -> lease_pb2.ResumeHints | None:
    before = answer.before
    if before is None or before.epoch == 0:
        return None
    return lease_pb2.ResumeHints(
        previous_worker=before.worker,
        previous_epoch=before.epoch,
        downloaded_bytes=before.progress.downloaded_bytes if before.progress else 0,
        media=before.media,
        last_error=before.error,
    )


def _refusal(refusal: Refusal) -> lease_pb2.Refusal:
    return lease_pb2.Refusal(
        reason=cast("lease_pb2.Refusal.Reason.ValueType", refusal.reason),
        retry_delay=None if refusal.retry_delay is None else fields.duration(refusal.retry_delay),
        lease_expire_time=fields.stamp(refusal.lease_expire_time),
        message=refusal.message,
    )
