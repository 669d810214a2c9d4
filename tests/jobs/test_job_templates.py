"""What many jobs ask for alike is looked at once, and each of them is checked as if it were the first."""

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
ASKED = [
    job_pb2.Job(url=URL),
    job_pb2.Job(url=URL, labels={"order": "7"}, format=FormatSpec(max_height=720), priority=job_pb2.Job.HIGH),
    job_pb2.Job(url=URL, kind=job_pb2.Job.EXPANSION),
    # What only the server writes is not taken from callers.
    job_pb2.Job(url=URL, name="jobs/mine", state=job_pb2.Job.SUCCEEDED, revision=7),
]


@pytest.fixture(autouse=True)
def caller() -> None:
    """A caller who may do everything, as under REELHAUL_AUTH=none."""
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS))


def made(forms: JobTemplateCache, asked: job_pb2.Job, *, batch_id: str = "") -> Job:
    return forms.job_of(asked, ids.new_id(LATER), NewJobContext("local", LATER, "00-1-2-3", batch_id))


def refused(forms: JobTemplateCache, asked: job_pb2.Job) -> ReelhaulError:
    with pytest.raises(ReelhaulError) as failure:
        made(forms, asked)
    return failure.value


def shown(job: Job) -> job_pb2.Job:
    return job_to_proto(JobView.from_row(job))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("batch_id", ["", "b"])
def test_second_of_its_form(asked, batch_id):
    """A job is the same whether or not one like it, with other labels and times, was asked for before."""
    before = job_pb2.Job()
    before.CopyFrom(asked)
    before.url = "https://www.youtube.com/watch?v=0"
    before.labels["other"] = "yes"
    before.schedule_time.FromDatetime(LATER + timedelta(days=1))
    before.expire_time.FromDatetime(LATER + timedelta(days=2))
    warm, cold = JobTemplateCache(timedelta(days=7)), JobTemplateCache(timedelta(days=7))
    assert made(warm, before).site == "youtube.com"
    second, first = made(warm, asked, batch_id=batch_id), made(cold, asked, batch_id=batch_id)
    assert second.site == "videos.example"
    own = {"id": first.id, "batch_id": first.batch_id}
    assert (second.batch_id == second.id) == (first.batch_id == first.id)
    assert replace(second, **own) == first


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("job.url", {"url": ""}),
        ("job.url", {"url": "https://user:pw@videos.example/x"}),
        ("job.labels", {"labels": {"No": "x"}}),
        ("job.schedule_time", {"schedule_time": NOW}),
        ("job.expire_time", {"expire_time": NOW}),
        ("job.format.max_height", {"format": FormatSpec(max_height=1)}),
    ],
)
def test_of_a_known_form_and_wrong(field, wrong):
    """That others of its form were fine excuses nothing of its own, and the answer is the same."""
    forms = JobTemplateCache(timedelta(days=7))
    made(forms, job_pb2.Job(url=URL))
    bad = job_pb2.Job(**{"url": URL, **wrong})
    for _ in range(2):
        error = refused(forms, bad)
        assert [v.field for v in error.violations] == [field]
        assert str(error) == str(refused(JobTemplateCache(timedelta(days=7)), bad))


def test_form_of_another_who_may_more():
    """What a caller with a grant was allowed is not for the next one, who has none."""
    forms = JobTemplateCache(timedelta(days=7))
    asked = job_pb2.Job(url=URL, format=FormatSpec(selector="best"))
    made(forms, asked)
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_DOWNLOAD))
    assert refused(forms, asked).reason == ErrorReason.PERMISSION_INSUFFICIENT


def test_many_answers_are_those_of_each():
    """Jobs told together are told as each would be alone, alike or not."""
    forms = JobTemplateCache(timedelta(days=7))
    jobs = [made(forms, asked) for asked in [*ASKED, *ASKED[:2], ASKED[1]]]
    jobs.insert(2, jobs[1].replace_fields(url="https://other.example/"))
    assert [shown(job) for job in jobs] == list(jobs_to_protos(jobs))


def test_ids_of_a_batch():
    """The ids of a batch are UUIDs of version 7, and sort as its jobs were asked for."""
    made = list(ids.new_ids(NOW, 500))
    assert made == sorted(set(made))
    assert all(len(one) == 36 and one[14] == "7" and one[19] in "89ab" for one in made)
    assert {one[:13] for one in made} == {ids.new_id(NOW)[:13]}


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
def test_plain_but_refused(url):
    """URLs that look plain are judged by their host as any other."""
    findings = FieldViolations()
    urls.check_url(url, "url", findings)
    assert findings
