"""GetStats: counts of SummarizeJobs, told flat."""

from __future__ import annotations

from google.protobuf import timestamp_pb2

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.jobs.v1.job_service_pb2 import SummarizeJobsRequest, SummarizeJobsResponse
from reelhaul_jobs.api.downloads.durations import of

_QUEUED = ("QUEUED", "RETRYING")
_RUNNING = ("RUNNING", "CANCELLING")


def over_time(request: flat.GetStatsRequest) -> SummarizeJobsRequest:
    """The stretch of time that *request* asks of."""
    asked = SummarizeJobsRequest()
    if request.HasField("created_after"):
        asked.start_time.CopyFrom(request.created_after)
    if request.HasField("created_before"):
        asked.end_time.CopyFrom(request.created_before)
    return asked


def now() -> SummarizeJobsRequest:
    """What waits and runs now, whenever it was created."""
    alive = " OR ".join(f"state = {state}" for state in (*_QUEUED, *_RUNNING))
    return SummarizeJobsRequest(filter=alive, start_time=timestamp_pb2.Timestamp())


def answer(past: SummarizeJobsResponse, present: SummarizeJobsResponse) -> flat.GetStatsResponse:
    """Both, flat."""
    total, alive = past.total, present.total.state_counts
    told = flat.GetStatsResponse(
        total=sum(total.state_counts.values()),
        by_status=total.state_counts,
        by_error=total.error_counts,
        downloaded_bytes=total.downloaded_bytes,
        queued_now=sum(alive.get(state, 0) for state in _QUEUED),
        running_now=sum(alive.get(state, 0) for state in _RUNNING),
    )
    succeeded = total.state_counts.get("SUCCEEDED", 0)
    if ended := succeeded + total.state_counts.get("FAILED", 0):
        told.success_ratio = succeeded / ended
    if total.HasField("latency_p50"):
        told.median_seconds, told.p95_seconds = of(total.latency_p50), of(total.latency_p95)
    return told
