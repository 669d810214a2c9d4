"""The cache of job templates: jobs with a known template are validated as strictly as the first one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reelhaul.jobs.v1 import job_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api.jobs.messages import job_to_proto, jobs_to_protos
from reelhaul_jobs.api.jobs.template_cache import JobTemplateCache, NewJobContext
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.results import JobView
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=3)
URL = "https://videos.example/watch?v=1"
REQUESTED = [
    job_pb2.Job(url=URL),
    job_pb2.Job(url=URL, labels={"order": "7"}, format=FormatSpec(max_height=720), priority=job_pb2.Job.HIGH),
    job_pb2.Job(url=URL, kind=job_pb2.Job.EXPANSION),
    # Output-only fields of callers are ignored.
    job_pb2.Job(url=URL, name="jobs/mine", state=job_pb2.Job.SUCCEEDED, revision=7),
]


@pytest.fixture(autouse=True)
def caller() -> None:
    """A caller with all permissions, as under REELHAUL_AUTH=none."""
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS))


def create(cache: JobTemplateCache, requested: job_pb2.Job, *, batch_id: str = "") -> Job:
    return cache.job_of(requested, ids.new_id(LATER), NewJobContext("local", LATER, "00-1-2-3", batch_id))


def error_of(cache: JobTemplateCache, requested: job_pb2.Job) -> ReelhaulError:
    with pytest.raises(ReelhaulError) as failure:
        create(cache, requested)
    return failure.value


def to_proto(job: Job) -> job_pb2.Job:
    return job_to_proto(JobView.from_row(job))


@pytest.mark.parametrize("requested", REQUESTED)
@pytest.mark.parametrize("batch_id", ["", "b"])
def test_second_job_of_a_template(requested, batch_id):
    """A job is the same whether or not one with other labels and times was requested before."""
    before = job_pb2.Job()
    before.CopyFrom(requested)
    before.url = "https://www.youtube.com/watch?v=0"
    before.labels["other"] = "yes"
    before.schedule_time.FromDatetime(LATER + timedelta(days=1))
    before.expire_time.FromDatetime(LATER + timedelta(days=2))
    warm, cold = JobTemplateCache(timedelta(days=7)), JobTemplateCache(timedelta(days=7))
    assert create(warm, before).site == "youtube.com"
    second, first = create(warm, requested, batch_id=batch_id), create(cold, requested, batch_id=batch_id)
    assert second.site == "videos.example"
    own = {"id": first.id, "batch_id": first.batch_id}
    assert (second.batch_id == second.id) == (first.batch_id == first.id)
    assert replace(second, **own) == first


@pytest.mark.parametrize(
    ("field", "invalid"),
    [
        ("job.url", {"url": ""}),
        ("job.url", {"url": "https://user:pw@videos.example/x"}),
        ("job.labels", {"labels": {"No": "x"}}),
        ("job.schedule_time", {"schedule_time": NOW}),
        ("job.expire_time", {"expire_time": NOW}),
        ("job.format.max_height", {"format": FormatSpec(max_height=1)}),
    ],
)
def test_invalid_job_of_a_known_template(field, invalid):
    """An invalid job gets the same error whether or not its template is cached."""
    cache = JobTemplateCache(timedelta(days=7))
    create(cache, job_pb2.Job(url=URL))
    request = job_pb2.Job(**{"url": URL, **invalid})
    for _ in range(2):
        error = error_of(cache, request)
        assert [v.field for v in error.violations] == [field]
        assert str(error) == str(error_of(JobTemplateCache(timedelta(days=7)), request))


def test_template_of_a_caller_with_more_permissions():
    """A template that needs a permission is checked again for a caller without it."""
    cache = JobTemplateCache(timedelta(days=7))
    requested = job_pb2.Job(url=URL, format=FormatSpec(selector="best"))
    create(cache, requested)
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_DOWNLOAD))
    assert error_of(cache, requested).reason == ErrorReason.PERMISSION_INSUFFICIENT


def test_many_jobs_to_protos():
    """Jobs converted together are converted as each would be alone, alike or not."""
    cache = JobTemplateCache(timedelta(days=7))
    jobs = [create(cache, requested) for requested in [*REQUESTED, *REQUESTED[:2], REQUESTED[1]]]
    jobs.insert(2, jobs[1].replace_fields(url="https://other.example/"))
    assert [to_proto(job) for job in jobs] == list(jobs_to_protos(jobs))


def test_ids_of_a_batch():
    """The ids of a batch are UUIDs of version 7, and sort in the order of the request."""
    created = list(ids.new_ids(NOW, 500))
    assert created == sorted(set(created))
    assert all(len(each) == 36 and each[14] == "7" and each[19] in "89ab" for each in created)
    assert {each[:13] for each in created} == {ids.new_id(NOW)[:13]}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/x",
        "http://0.0.0.0",
        "http://METADATA.google.internal./x",
        "http://0x7f.1/x",
        "http://a..b/x",
        "http://-a.example/x",
        "http://./x",
        "http://a.example/\t",
        "http://a.example\n",
        "http://a.example/" + "x" * 2048,
    ],
)
def test_invalid_urls(url):
    """URLs that the fast path matches are validated by their host as any other."""
    violations = FieldViolations()
    urls.check_url(url, "url", violations)
    assert violations
