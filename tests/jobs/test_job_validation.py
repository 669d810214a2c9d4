"""What may become a job, and what a caller hears of all that is wrong."""

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
    """A caller who may do everything, as under REELHAUL_AUTH=none."""
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS))


def refused(job: Job) -> ReelhaulError:
    with pytest.raises(ReelhaulError) as failure:
        validate_and_normalize(job, NOW)
    return failure.value


def violated(**fields: object) -> dict[str, str]:
    """The violations of a job with *fields*, by field."""
    error = refused(Job(url=URL, **fields))  # type: ignore[arg-type]
    return {v.field: v.description for v in error.violations}


def violated_format(**fields: object) -> set[str]:
    return set(violated(format=FormatSpec(**fields)))  # type: ignore[arg-type]


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
def test_urls_of_http_are_admitted(url):
    """Loopback too: whether it may be fetched is for the guard's setting to say."""
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
    """What parsers disagree on, or what is not http, is URL_INVALID on job.url."""
    error = refused(Job(url=url))
    assert error.reason == ErrorReason.URL_INVALID
    assert [v.field for v in error.violations] == ["job.url"]
    assert "url" in error.metadata


def test_secret_in_url_is_not_echoed():
    """A password that someone put into a URL comes back in no error."""
    error = refused(Job(url="https://user:hunter2@a.example/x"))
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
    """Metadata services and the like are refused before a job exists."""
    error = refused(Job(url=f"http://{host}/latest"))
    assert error.reason == ErrorReason.URL_FORBIDDEN
    assert host.strip("[]").removeprefix("::ffff:") in error.metadata["host"].removeprefix("::ffff:")


def test_missing_url_is_required():
    """A job without a URL is told so by field."""
    error = refused(Job())
    assert error.reason == ErrorReason.FIELD_INVALID
    assert error.metadata["field"] == "job.url"


def test_everything_wrong_is_told_at_once():
    """One answer names every field; the reason is that of the URL."""
    job = Job(url="nonsense", labels={"Bad": "x"}, format=FormatSpec(max_height=99))
    job.retry_policy.max_attempts = 21
    error = refused(job)
    assert error.reason == ErrorReason.URL_INVALID
    assert {"job.url", "job.labels", "job.format.max_height", "job.retry_policy.max_attempts"} == {
        v.field for v in error.violations
    }
    assert "and 1 more" in error.text


def test_defaults_are_filled_in():
    """Whoever reads an admitted job finds what the server will do, not zeros."""
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


def test_defaults_do_not_replace_what_was_asked():
    """A short longest wait keeps the first wait within it."""
    job = Job(url=URL, priority=Job.HIGH)
    job.retry_policy.max_backoff.FromSeconds(2)
    admitted_job = validate_and_normalize(job, NOW)
    assert admitted_job.priority == Job.HIGH
    assert admitted_job.retry_policy.min_backoff.seconds == 2


def test_output_fields_are_ignored():
    """What only the server writes is cleared, at every depth, and the request is left as it was."""
    job = Job(url=URL, name="jobs/mine", state=Job.SUCCEEDED, tenant="other", kind=Job.EXPANSION)
    job.expansion.job_count = 7
    clean = validate_and_normalize(job, NOW)
    assert (clean.name, clean.state, clean.tenant) == ("", Job.STATE_UNSPECIFIED, "")
    assert clean.expansion.job_count == 0
    assert clean.expansion.max_entries == 100
    assert job.name == "jobs/mine"


def test_labels_are_bounded():
    """Count, keys and values of labels have limits."""
    assert {"job.labels"} == set(violated(labels={f"k{i}": "" for i in range(65)}))
    assert {"job.labels.k"} == set(violated(labels={"k": "x" * 257}))
    assert {"job.labels"} == set(violated(labels={"1k": "x"}))


@pytest.mark.parametrize("days", [-1, 367])
def test_schedule_time_is_within_the_coming_year(days):
    """A time in the past or more than a year ahead is refused."""
    job = Job(url=URL)
    job.schedule_time.FromDatetime(NOW + timedelta(days=days))
    assert refused(job).metadata["field"] == "job.schedule_time"


def test_times_that_are_none_are_refused():
    """Seconds beyond the year 9999, or nanos out of range, do not crash anything."""
    job = Job(url=URL)
    job.schedule_time.seconds = 2**62
    job.ttl.nanos = 2**31 - 1
    job.attempt_deadline.seconds = 2**62
    assert {"job.schedule_time", "job.ttl", "job.attempt_deadline"} == {
        v.field for v in refused(job).violations
    }


def test_retry_policy_is_bounded():
    """The first wait is at least a second and never longer than the longest."""
    job = Job(url=URL)
    job.retry_policy.min_backoff.FromSeconds(60)
    job.retry_policy.max_backoff.FromSeconds(30)
    assert refused(job).metadata["field"] == "job.retry_policy.max_backoff"
    job.retry_policy.min_backoff.FromMilliseconds(10)
    assert refused(job).metadata["field"] == "job.retry_policy.min_backoff"


def test_expansion_needs_its_kind():
    """A single download has no expansion."""
    job = Job(url=URL)
    job.expansion.max_entries = 10_001
    assert {"job.expansion", "job.expansion.max_entries"} == {v.field for v in refused(job).violations}


def test_unknown_enum_numbers_are_refused():
    """proto3 lets any number through; a job with one would mean nothing."""
    job = Job()
    job.ParseFromString(b"\x20\x63")
    job.url = URL
    assert refused(job).metadata["field"] == "job.priority"


def test_format_fields_narrow_each_other():
    """Fields at odds with each other are named, each by its path."""
    assert {"job.format.min_height"} == violated_format(max_height=720, min_height=1080)
    assert {"job.format.max_height", "job.format.container"} == violated_format(
        media_kind=FormatSpec.AUDIO, max_height=720, container=FormatSpec.MP4
    )
    assert {"job.format.audio.format"} == violated_format(audio=FormatSpec.Audio(format=FormatSpec.Audio.MP3))
    assert {"job.format.subtitles", "job.format.audio"} == violated_format(
        media_kind=FormatSpec.SUBTITLES_ONLY, audio=FormatSpec.Audio(bitrate_kbps=64)
    )
    assert {"job.format.sponsorblock.mode", "job.format.sponsorblock.categories"} == violated_format(
        sponsorblock=FormatSpec.SponsorBlock(categories=["adverts"])
    )


def test_clip_ends_after_its_start():
    """A clip of nothing is refused, and so is one of live media."""
    spec = FormatSpec()
    spec.clip.start.FromSeconds(10)
    spec.clip.end.FromSeconds(10)
    assert refused(Job(url=URL, format=spec)).metadata["field"] == "job.format.clip.end"
    spec.clip.end.FromSeconds(11)
    spec.live.mode = FormatSpec.Live.RECORD
    assert refused(Job(url=URL, format=spec)).metadata["field"] == "job.format.clip"


def test_languages_are_languages():
    """No path, option or word of another field passes for a language."""
    for language in ("../../x", "--exec", "en us", ""):
        subtitles = FormatSpec.Subtitles(languages=[language])
        assert {"job.format.subtitles.languages"} == violated_format(subtitles=subtitles)
    assert {"job.format.audio.languages"} == violated_format(audio=FormatSpec.Audio(languages=["all"]))


def test_selector_needs_its_grant():
    """A caller below FULL_ACCESS is told which field needs which grant."""
    job = Job(url=URL, format=FormatSpec(selector="bv*+ba/b"))
    assert validate_and_normalize(job, NOW).format.selector == "bv*+ba/b"
    identity.set_caller(identity.Caller("local", PermissionLevel.PERMISSION_LEVEL_ADMIN))
    error = refused(job)
    assert error.reason == ErrorReason.PERMISSION_INSUFFICIENT
    assert error.metadata["required"] == "EXPERT_SELECTOR"
    assert error.violations[0].field == "job.format.selector"


@pytest.mark.parametrize("selector", ["bv[url~=(a+)+]", "b;rm", "(bv", "bv[height<=720", "x" * 501])
def test_selectors_are_bounded(selector):
    """Regular expressions, odd letters and open brackets are no selector here."""
    assert {"job.format.selector"} == violated_format(selector=selector)
