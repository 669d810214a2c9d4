"""Validation of new jobs, and the errors that report all violations at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api.jobs.validation import validate_and_normalize
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError

NOW = datetime(2026, 11, 1, tzinfo=UTC)
URL = "https://videos.example/watch?v=1"


@pytest.fixture(autouse=True)
def caller() -> None:
    """A caller with all permissions, as under REELHAUL_AUTH=none."""
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS))


def rejection_of(job: Job) -> ReelhaulError:
    with pytest.raises(ReelhaulError) as failure:
        validate_and_normalize(job, NOW)
    return failure.value


def violations_of(**fields: object) -> dict[str, str]:
    """Return the descriptions of the violations of a job with *fields*, by field."""
    error = rejection_of(Job(url=URL, **fields))  # type: ignore[arg-type]
    return {v.field: v.description for v in error.violations}


def format_violations_of(**fields: object) -> set[str]:
    return set(violations_of(format=FormatSpec(**fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://127.0.0.1:8000/clip.mp4",
        "http://[::1]:8000/a#t=3",
        "https://пример.example/ä?q=ö",
        "https://a_b.example./x",
    ],
)
def test_http_urls_are_valid(url):
    """Loopback URLs too: the guard's settings decide whether they may be fetched."""
    assert url == validate_and_normalize(Job(url=url), NOW).url


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example/x",
        "//a.example/x",
        "a.example/x",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https://user:pw@a.example/x",
        "https://@a.example/x",
        "https://a.example\\@b.example/x",
        "https://a.example/x y",
        "https://a.example/\nx",
        " https://a.example/x",
        "https://a.example/\x00",
        "https://a.example:99999/x",
        "https://a.example:0/x",
        "https://[::1/x",
        "https://-a.example/x",
        "https://a..example/x",
        "http://2130706433/x",
        "http://0x7f.1/x",
        "http://127.1/x",
        "http://0177.0.0.1/x",
        "https://a.example/" + "x" * 2048,
    ],
)
def test_other_urls_are_invalid(url):
    """URLs that parsers disagree on, or that are not http, are URL_INVALID on job.url."""
    error = rejection_of(Job(url=url))
    assert error.reason == ErrorReason.URL_INVALID
    assert [v.field for v in error.violations] == ["job.url"]
    assert "url" in error.metadata


def test_secret_in_url_is_not_repeated():
    """No error repeats a password that is part of a URL."""
    error = rejection_of(Job(url="https://user:hunter2@a.example/x"))
    assert "hunter2" not in f"{error.text}{error.metadata}{error.violations}"
    assert error.metadata["url"] == "https://a.example/x"


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "metadata.google.internal",
        "0.0.0.0",
        "[fe80::1]",
        "224.0.0.1",
    ],
)
def test_hosts_that_no_setting_allows_are_forbidden(host):
    """Metadata services and other special addresses are URL_FORBIDDEN."""
    error = rejection_of(Job(url=f"http://{host}/latest"))
    assert error.reason == ErrorReason.URL_FORBIDDEN
    assert host.strip("[]").removeprefix("::ffff:") in error.metadata["host"].removeprefix("::ffff:")


def test_missing_url_is_required():
    """A job without a URL is FIELD_INVALID on job.url."""
    error = rejection_of(Job())
    assert error.reason == ErrorReason.FIELD_INVALID
    assert error.metadata["field"] == "job.url"


def test_all_violations_are_reported_at_once():
    """One error names every field; its reason is that of the URL."""
    job = Job(url="nonsense", labels={"Bad": "x"}, format=FormatSpec(max_height=99))
    job.retry_policy.max_attempts = 21
    error = rejection_of(job)
    assert error.reason == ErrorReason.URL_INVALID
    assert {"job.url", "job.labels", "job.format.max_height", "job.retry_policy.max_attempts"} == {
        v.field for v in error.violations
    }
    assert "and 1 more" in error.text


def test_defaults_are_set():
    """A valid job contains the server's defaults, not zeros."""
    job = validate_and_normalize(Job(url=URL, format=FormatSpec(subtitles=FormatSpec.Subtitles())), NOW)
    assert (job.priority, job.kind) == (Job.NORMAL, Job.SINGLE)
    assert job.retry_policy.max_attempts == 3
    assert timedelta(seconds=5) == job.retry_policy.min_backoff.ToTimedelta()
    assert timedelta(minutes=10) == job.retry_policy.max_backoff.ToTimedelta()
    assert timedelta(hours=1) == job.attempt_deadline.ToTimedelta()
    assert job.format.media_kind == FormatSpec.VIDEO
    assert job.format.dynamic_range == FormatSpec.PREFER_SDR
    assert job.format.audio.languages == ["original"]
    assert job.format.subtitles.formats == [FormatSpec.Subtitles.SRT]
    assert not job.HasField("expansion")


def test_defaults_respect_the_request():
    """The default of min_backoff is at most the requested max_backoff."""
    job = Job(url=URL, priority=Job.HIGH)
    job.retry_policy.max_backoff.FromSeconds(2)
    normalized = validate_and_normalize(job, NOW)
    assert normalized.priority == Job.HIGH
    assert normalized.retry_policy.min_backoff.seconds == 2


def test_output_fields_are_ignored():
    """OUTPUT_ONLY fields are cleared at every depth, in a copy of the request."""
    job = Job(url=URL, name="jobs/mine", state=Job.SUCCEEDED, tenant="other", kind=Job.EXPANSION)
    job.expansion.job_count = 7
    normalized = validate_and_normalize(job, NOW)
    assert (normalized.name, normalized.state, normalized.tenant) == ("", Job.STATE_UNSPECIFIED, "")
    assert normalized.expansion.job_count == 0
    assert normalized.expansion.max_entries == 100
    assert job.name == "jobs/mine"


def test_labels_are_bounded():
    """Number, keys and values of labels are limited."""
    assert {"job.labels"} == set(violations_of(labels={f"k{i}": "" for i in range(65)}))
    assert {"job.labels.k"} == set(violations_of(labels={"k": "x" * 257}))
    assert {"job.labels"} == set(violations_of(labels={"1k": "x"}))


@pytest.mark.parametrize("days", [-1, 367])
def test_schedule_time_is_within_the_coming_year(days):
    """A time in the past or more than a year ahead is rejected."""
    job = Job(url=URL)
    job.schedule_time.FromDatetime(NOW + timedelta(days=days))
    assert rejection_of(job).metadata["field"] == "job.schedule_time"


def test_invalid_times_are_rejected():
    """Seconds beyond the year 9999 and nanos out of range are violations."""
    job = Job(url=URL)
    job.schedule_time.seconds = 2**62
    job.ttl.nanos = 2**31 - 1
    job.attempt_deadline.seconds = 2**62
    assert {"job.schedule_time", "job.ttl", "job.attempt_deadline"} == {
        v.field for v in rejection_of(job).violations
    }


def test_retry_policy_is_bounded():
    """min_backoff is at least a second and at most max_backoff."""
    job = Job(url=URL)
    job.retry_policy.min_backoff.FromSeconds(60)
    job.retry_policy.max_backoff.FromSeconds(30)
    assert rejection_of(job).metadata["field"] == "job.retry_policy.max_backoff"
    job.retry_policy.min_backoff.FromMilliseconds(10)
    assert rejection_of(job).metadata["field"] == "job.retry_policy.min_backoff"


def test_expansion_needs_kind_expansion():
    """A job of kind SINGLE has no expansion."""
    job = Job(url=URL)
    job.expansion.max_entries = 10_001
    assert {"job.expansion", "job.expansion.max_entries"} == {v.field for v in rejection_of(job).violations}


def test_unknown_enum_numbers_are_rejected():
    """proto3 accepts any enum number; validation does not."""
    job = Job()
    job.ParseFromString(b"\x20\x63")
    job.url = URL
    assert rejection_of(job).metadata["field"] == "job.priority"


def test_conflicting_format_fields():
    """Conflicting fields are each named by their path."""
    assert {"job.format.min_height"} == format_violations_of(max_height=720, min_height=1080)
    assert {"job.format.max_height", "job.format.container"} == format_violations_of(
        media_kind=FormatSpec.AUDIO, max_height=720, container=FormatSpec.MP4
    )
    assert {"job.format.audio.format"} == format_violations_of(
        audio=FormatSpec.Audio(format=FormatSpec.Audio.MP3)
    )
    assert {"job.format.subtitles", "job.format.audio"} == format_violations_of(
        media_kind=FormatSpec.SUBTITLES_ONLY, audio=FormatSpec.Audio(bitrate_kbps=64)
    )
    assert {"job.format.sponsorblock.mode", "job.format.sponsorblock.categories"} == format_violations_of(
        sponsorblock=FormatSpec.SponsorBlock(categories=["adverts"])
    )


def test_clip_ends_after_its_start():
    """An empty clip is rejected, and so is a clip of live media."""
    spec = FormatSpec()
    spec.clip.start.FromSeconds(10)
    spec.clip.end.FromSeconds(10)
    assert rejection_of(Job(url=URL, format=spec)).metadata["field"] == "job.format.clip.end"
    spec.clip.end.FromSeconds(11)
    spec.live.mode = FormatSpec.Live.RECORD
    assert rejection_of(Job(url=URL, format=spec)).metadata["field"] == "job.format.clip"


def test_languages_are_validated():
    """Paths, options and words of other fields are no languages."""
    for language in ("../../x", "--exec", "en us", ""):
        subtitles = FormatSpec.Subtitles(languages=[language])
        assert {"job.format.subtitles.languages"} == format_violations_of(subtitles=subtitles)
    assert {"job.format.audio.languages"} == format_violations_of(audio=FormatSpec.Audio(languages=["all"]))


def test_selector_needs_its_grant():
    """A caller below FULL_ACCESS gets an error that names the field and its grant."""
    job = Job(url=URL, format=FormatSpec(selector="bv*+ba/b"))
    assert validate_and_normalize(job, NOW).format.selector == "bv*+ba/b"
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_ADMIN))
    error = rejection_of(job)
    assert error.reason == ErrorReason.PERMISSION_INSUFFICIENT
    assert error.metadata["required"] == "EXPERT_SELECTOR"
    assert error.violations[0].field == "job.format.selector"


@pytest.mark.parametrize("selector", ["bv[url~=(a+)+]", "b;rm", "(bv", "bv[height<=720", "x" * 501])
def test_selectors_are_bounded(selector):
    """Selectors with regular expressions, other characters or open brackets are rejected."""
    assert {"job.format.selector"} == format_violations_of(selector=selector)
