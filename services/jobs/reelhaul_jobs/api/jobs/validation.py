"""Admission: what a job must be before it is written down; all that is wrong is told at once.

The bounds are those that protos/reelhaul/jobs/v1/job.proto and type/v1/media.proto state.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2
from reelhaul_runtime import identity
from reelhaul_runtime.validation import fields, formats, urls
from reelhaul_runtime.validation.violations import FieldViolations

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_YEAR = timedelta(days=366)
_HOUR = timedelta(hours=1)


def validate_and_normalize(job: job_pb2.Job, now: datetime) -> job_pb2.Job:
    """*job* as it may be stored at *now*: checked, defaults filled in, OUTPUT_ONLY fields cleared.

    *job* itself is left as it is. Retention is not filled in: it is the server's to say.

    Raises PERMISSION_INSUFFICIENT where a field needs a grant that the caller lacks;
    URL_INVALID or URL_FORBIDDEN where the URL is the worst of it; else FIELD_INVALID. Each
    holds the violations of all fields, named from the request: ``job.format.max_height``.
    """
    asked = job_pb2.Job()
    asked.CopyFrom(job)
    fields.clear_output(asked)
    fields.check_grants(asked, "job", identity.caller)
    findings = FieldViolations()
    fields.check_enums(asked, "job", findings)
    urls.check_url(asked.url, "job.url", findings)
    formats.check_format(asked.format, "job.format", findings)
    check_labels(asked, findings)
    check_times(asked, now, findings)
    _check_retries(asked.retry_policy, findings)
    _check_expansion(asked, findings)
    findings.raise_if_any()
    _fill(asked)
    return asked


def varying_fields_valid(job: job_pb2.Job, now: datetime) -> bool:
    """Whether there is nothing wrong with what a *job* seldom shares with others: URL, labels and times.

    ``admitted`` says what is wrong, if that is so.
    """
    findings = FieldViolations()
    urls.check_url(job.url, "job.url", findings)
    check_labels(job, findings)
    check_times(job, now, findings)
    return not findings


def check_labels(job: job_pb2.Job, findings: FieldViolations) -> None:
    """Find labels out of bounds."""
    if len(job.labels) > 64:
        findings.add("job.labels", f"at most 64 labels, not {len(job.labels)}")
        return
    for key, value in sorted(job.labels.items()):
        if not _LABEL_KEY.fullmatch(key):
            findings.add("job.labels", f"the key {key[:80]!r} does not match ^[a-z][a-z0-9_-]{{0,62}}$")
        elif len(value) > 256:
            findings.add(f"job.labels.{key}", f"at most 256 characters, not {len(value)}")


def check_times(job: job_pb2.Job, now: datetime, findings: FieldViolations) -> None:
    """Find times and durations out of bounds; the past is."""
    if job.HasField("schedule_time"):
        findings.check_time("job.schedule_time", job.schedule_time, not_before=now, not_after=now + _YEAR)
    if job.HasField("attempt_deadline"):
        findings.check_duration(
            "job.attempt_deadline", job.attempt_deadline, timedelta(seconds=1), timedelta(hours=12)
        )
    if job.HasField("expire_time"):
        findings.check_time("job.expire_time", job.expire_time, not_before=now, not_after=now + 10 * _YEAR)
    if job.HasField("ttl"):
        findings.check_duration("job.ttl", job.ttl, timedelta(seconds=1), 10 * _YEAR)


def _check_retries(policy: job_pb2.RetryPolicy, findings: FieldViolations) -> None:
    day = timedelta(days=1)
    findings.check_range("job.retry_policy.max_attempts", policy.max_attempts, 1, 20)
    good = True
    for name in ("min_backoff", "max_backoff"):
        if policy.HasField(name):
            wait = getattr(policy, name)
            good &= findings.check_duration(f"job.retry_policy.{name}", wait, timedelta(seconds=1), day)
    both = good and policy.HasField("min_backoff") and policy.HasField("max_backoff")
    if both and policy.min_backoff.ToTimedelta() > policy.max_backoff.ToTimedelta():
        findings.add("job.retry_policy.max_backoff", "it is shorter than min_backoff")


def _check_expansion(job: job_pb2.Job, findings: FieldViolations) -> None:
    if not job.HasField("expansion"):
        return
    if job.kind != job_pb2.Job.EXPANSION:
        findings.add("job.expansion", "only a job of kind EXPANSION has one")
    findings.check_range("job.expansion.max_entries", job.expansion.max_entries, 1, 10_000)
    if job.expansion.new_entries_only:
        findings.add("job.expansion.new_entries_only", "only a schedule's job knows what was seen earlier")


def _fill(job: job_pb2.Job) -> None:
    """Write the defaults that the protos name, so that whoever reads the job needs no table of them."""
    job.priority = job.priority or job_pb2.Job.NORMAL
    job.kind = job.kind or job_pb2.Job.SINGLE
    policy = job.retry_policy
    policy.max_attempts = policy.max_attempts or 3
    if not policy.HasField("min_backoff"):
        policy.min_backoff.FromSeconds(5)
        if policy.HasField("max_backoff") and policy.max_backoff.ToTimedelta() < timedelta(seconds=5):
            policy.min_backoff.CopyFrom(policy.max_backoff)
    if not policy.HasField("max_backoff"):
        policy.max_backoff.FromTimedelta(max(timedelta(minutes=10), policy.min_backoff.ToTimedelta()))
    if not job.HasField("attempt_deadline"):
        job.attempt_deadline.FromTimedelta(_HOUR)
    if job.kind == job_pb2.Job.EXPANSION:
        job.expansion.max_entries = job.expansion.max_entries or 100
    formats.apply_defaults(job.format)
