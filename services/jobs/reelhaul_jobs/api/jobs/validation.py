"""Validation of a job before it is stored: all violations are reported in one error.

The bounds are those of protos/reelhaul/jobs/v1/job.proto and type/v1/media.proto.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2
from reelhaul_runtime import identity
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.validation import fields, formats, urls
from reelhaul_runtime.validation.violations import FieldNames, FieldViolations, same_name

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DESTINATION = re.compile(r"(destinations/)?[a-z][a-z0-9-]{2,62}", re.ASCII)
_MAX_LABELS = 64
_MAX_LABEL_VALUE = 256
_YEAR = timedelta(days=366)
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


def validate_and_normalize(
    job: job_pb2.Job, now: datetime, names: FieldNames = same_name, rules: Rules | None = None
) -> job_pb2.Job:
    """Return a copy of *job* as it may be stored at *now*: defaults set, OUTPUT_ONLY fields cleared.

    *rules* are those of ``urls.check_url``.
    Retention is not set: the server decides it.

    Raises PERMISSION_INSUFFICIENT where a field needs a grant that the caller lacks; otherwise one
    error with the violations of all fields, as *names* calls ``job.format.max_height`` and the
    like: URL_INVALID or URL_FORBIDDEN if the URL is among them, else FIELD_INVALID.
    """
    normalized = job_pb2.Job()
    normalized.CopyFrom(job)
    fields.clear_output(normalized)
    fields.check_grants(normalized, "job", identity.caller, names)
    violations = FieldViolations(names)
    fields.check_enums(normalized, "job", violations)
    urls.check_url(normalized.url, "job.url", violations, rules)
    formats.check_format(normalized.format, "job.format", violations)
    check_labels(normalized, violations)
    check_times(normalized, now, violations)
    _check_retry_policy(normalized.retry_policy, violations)
    _check_expansion(normalized, violations)
    if normalized.deliver_to and not _DESTINATION.fullmatch(normalized.deliver_to):
        violations.add("job.deliver_to", "must be destinations/ followed by an id")
    violations.raise_if_any()
    _set_defaults(normalized)
    return normalized


def varying_fields_valid(job: job_pb2.Job, now: datetime, rules: Rules | None = None) -> bool:
    """Return whether the fields that jobs seldom share are valid: URL, labels and times.

    ``validate_and_normalize`` reports what is wrong if they are not.
    """
    violations = FieldViolations()
    urls.check_url(job.url, "job.url", violations, rules)
    check_labels(job, violations)
    check_times(job, now, violations)
    return not violations


def check_labels(job: job_pb2.Job, violations: FieldViolations) -> None:
    """Add a violation for each label out of bounds."""
    if len(job.labels) > _MAX_LABELS:
        violations.add("job.labels", f"must have at most {_MAX_LABELS} labels, not {len(job.labels)}")
        return
    for key, value in sorted(job.labels.items()):
        if not _LABEL_KEY.fullmatch(key):
            violations.add("job.labels", f"the key {key[:80]!r} does not match ^[a-z][a-z0-9_-]{{0,62}}$")
        elif len(value) > _MAX_LABEL_VALUE:
            text = f"must have at most {_MAX_LABEL_VALUE} characters, not {len(value)}"
            violations.add(f"job.labels.{key}", text)
        elif "\0" in value:
            # PostgreSQL rejects NUL in JSON, and with it every filter over the labels of the tenant.
            violations.add(f"job.labels.{key}", "must not contain NUL")


def check_times(job: job_pb2.Job, now: datetime, violations: FieldViolations) -> None:
    """Add a violation for each time and duration out of bounds; times in the past are."""
    if job.HasField("schedule_time"):
        violations.check_time("job.schedule_time", job.schedule_time, not_before=now, not_after=now + _YEAR)
    if job.HasField("attempt_deadline"):
        violations.check_duration("job.attempt_deadline", job.attempt_deadline, _SECOND, 12 * _HOUR)
    if job.HasField("expire_time"):
        violations.check_time("job.expire_time", job.expire_time, not_before=now, not_after=now + 10 * _YEAR)
    if job.HasField("ttl"):
        violations.check_duration("job.ttl", job.ttl, _SECOND, 10 * _YEAR)


def _check_retry_policy(policy: job_pb2.RetryPolicy, violations: FieldViolations) -> None:
    violations.check_range("job.retry_policy.max_attempts", policy.max_attempts, 1, 20)
    valid = True
    for name in ("min_backoff", "max_backoff"):
        if policy.HasField(name):
            valid &= violations.check_duration(
                f"job.retry_policy.{name}", getattr(policy, name), _SECOND, _DAY
            )
    both = valid and policy.HasField("min_backoff") and policy.HasField("max_backoff")
    if both and policy.min_backoff.ToTimedelta() > policy.max_backoff.ToTimedelta():
        violations.add("job.retry_policy.max_backoff", "must not be shorter than min_backoff")


def _check_expansion(job: job_pb2.Job, violations: FieldViolations) -> None:
    if not job.HasField("expansion"):
        return
    if job.kind != job_pb2.Job.EXPANSION:
        violations.add("job.expansion", "only a job of kind EXPANSION has one")
    violations.check_range("job.expansion.max_entries", job.expansion.max_entries, 1, 10_000)
    if job.expansion.new_entries_only:
        violations.add(
            "job.expansion.new_entries_only", "only the job of a schedule knows which entries are new"
        )


def _set_defaults(job: job_pb2.Job) -> None:
    """Set the defaults that the protos name, so that readers of the job need no table of them."""
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
