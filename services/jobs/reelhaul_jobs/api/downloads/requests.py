"""Flat requests, as JobService and FetcherService take them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from google.protobuf import timestamp_pb2

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api.downloads import choices, formats
from reelhaul_jobs.api.downloads.durations import seconds
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

_MOST_SKIPPED = 10_000


def create(request: flat.CreateDownloadRequest) -> job_service_pb2.CreateJobRequest:
    """CreateDownload as CreateJob. Raises FIELD_INVALID with all words that are none."""
    findings = FieldViolations()
    asked = job_service_pb2.CreateJobRequest(
        job=_job(request, findings), request_id=request.request_id, validate_only=request.validate_only
    )
    findings.raise_if_any()
    return asked


def listing(request: flat.ListDownloadsRequest) -> job_service_pb2.ListJobsRequest:
    """ListDownloads as ListJobs. Raises FIELD_INVALID."""
    findings = FieldViolations()
    order = choices.parse_choice(request.order, choices.ORDERS, "order", findings) or ""
    if len(request.url_contains) > 200:
        findings.add("url_contains", f"at most 200 characters, not {len(request.url_contains)}")
    asked = job_service_pb2.ListJobsRequest(
        page_size=min(request.page_size or 50, 1000),
        page_token=request.page_token,
        filter=" AND ".join(_terms(request, findings)),
        order_by=order,
        view=job_service_pb2.JOB_VIEW_BASIC,
    )
    if request.page_token and request.page:
        findings.add("page", "it must be unset where page_token is set")
    elif not 0 <= request.page <= _MOST_SKIPPED or request.page * max(asked.page_size, 1) > _MOST_SKIPPED:
        findings.add("page", f"page * page_size must be 0..{_MOST_SKIPPED}: use page_token beyond")
    findings.raise_if_any()
    asked.skip = max(request.page - 1, 0) * asked.page_size
    return asked


def probe(request: flat.GetInfoRequest) -> fetcher_service_pb2.ProbeMediaRequest:
    """GetInfo as ProbeMedia. Raises FIELD_INVALID."""
    findings = FieldViolations()
    urls.check_url(request.url, "url", findings)
    findings.check_range("max_entries", request.max_entries, 1, 1000)
    wanted = flat.CreateDownloadRequest(
        quality=request.quality,
        format=request.format,
        audio_only=request.audio_only,
        cookies=request.cookies,
    )
    spec = formats.spec(wanted, findings)
    findings.raise_if_any()
    return fetcher_service_pb2.ProbeMediaRequest(
        url=request.url, format=spec, max_entries=request.max_entries
    )


def watch(request: flat.WatchProgressRequest) -> job_service_pb2.WatchJobRequest:
    """WatchProgress as WatchJob. Raises FIELD_INVALID."""
    findings = FieldViolations()
    asked = job_service_pb2.WatchJobRequest(name=name(request.job_id), resume_token=request.resume_token)
    if request.min_interval_seconds:
        seconds(request.min_interval_seconds, asked.min_interval, "min_interval_seconds", findings)
    if request.heartbeat_seconds:
        seconds(request.heartbeat_seconds, asked.heartbeat_interval, "heartbeat_seconds", findings)
    findings.raise_if_any()
    return asked


def name(job_id: str) -> str:
    """The job's resource name; what is no id of ours is left for JobService to refuse."""
    return job_id if job_id.startswith("jobs/") else f"jobs/{job_id}"


def _job(request: flat.CreateDownloadRequest, findings: FieldViolations) -> job_pb2.Job:
    # Checked again with the job; here so that one answer tells of it and of the words.
    urls.check_url(request.url, "url", findings)
    job = job_pb2.Job(url=request.url, format=formats.spec(request, findings), labels=request.labels)
    job.priority = (
        choices.parse_choice(request.priority, choices.PRIORITIES, "priority", findings) or job.priority
    )
    if request.HasField("schedule_time"):
        job.schedule_time.CopyFrom(request.schedule_time)
    if request.ttl_seconds:
        seconds(request.ttl_seconds, job.ttl, "ttl_seconds", findings)
    if request.playlist:
        job.kind = job_pb2.Job.EXPANSION
        job.expansion.max_entries = request.max_entries
    elif request.max_entries:
        findings.add("max_entries", "it must be unset where playlist is not set")
    return job


def _terms(request: flat.ListDownloadsRequest, findings: FieldViolations) -> Sequence[str]:
    """The terms of the filter that the fields of *request* make."""
    terms = []
    if request.status:
        names = [_state(number, findings) for number in dict.fromkeys(request.status)]
        terms.append("(" + " OR ".join(f"state = {name}" for name in names) + ")")
    if request.HasField("created_after"):
        terms.append(f'create_time >= "{_moment(request.created_after, "created_after", findings)}"')
    if request.HasField("created_before"):
        terms.append(f'create_time < "{_moment(request.created_before, "created_before", findings)}"')
    if request.url_contains:
        terms.append(f'url = "*{_escaped(request.url_contains)}*"')
    if request.batch_id:
        terms.append(f'batch_id = "{_escaped(request.batch_id[:200])}"')
    return terms


def _state(number: int, findings: FieldViolations) -> str:
    if not number or number not in Download.Status.values():
        findings.add("status", f"{number} is no status")
        return "QUEUED"
    return Download.Status.Name(Download.Status.ValueType(number))


def _moment(value: timestamp_pb2.Timestamp, field: str, findings: FieldViolations) -> str:
    try:
        return value.ToDatetime(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        findings.add(field, "it is no valid time")
        return ""


def _escaped(text: str) -> str:
    """*text* within a quoted string of a filter, where it means nothing but itself."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*")
