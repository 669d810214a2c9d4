"""Traces of the whole suite, as an OTLP receiver gets them, and the lines of the log that belong to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import otlp_receiver, webhook_receiver
from tests.otlp_receiver import Receiver, Span, format_tree
from tests.sites.site import Site
from tests.suite.downloads import wait_for_end, wait_until_downloading
from tests.suite.suite import Suite, running_suite
from tests.suite.test_logs import read_log

# Bytes per second: the download lasts until it is killed or cancelled.
_RATE = 500_000
_CALLER = "00f067aa0ba902b7"
_PAGE = Path(__file__).parents[2] / "docs/tracing.md"
#: The trace of a download, as the documentation shows it.
_TREE = _PAGE.read_text().partition("```text\n")[2].partition("\n```")[0].splitlines()


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with otlp_receiver.running_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def suite(collector: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that records the traces that its callers record, and begins none that are recorded."""
    settings = {
        "otlp_endpoint": collector.endpoint,
        "otlp_headers": "x-collector-key=secret",
        "trace_sample_ratio": "0",
        "trace_xray": "true",
        "jobs_lease_seconds": "3",
        "jobs_webhook_networks": "127.0.0.1/32",
        "log_level": "DEBUG",
        "log_format": "json",
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        with running_suite(tmp_path_factory.mktemp("traces") / "data", **settings) as running:
            yield running


def _create(suite: Suite, url: str, headers: dict[str, str]) -> str:
    body = {"url": url, "quality": "480p", "format": "mp4"}
    response = suite.http.post("/api/v1/download", json=body, headers=headers).raise_for_status()
    return str(response.json()["job_id"])


def _named(spans: list[Span], name: str) -> list[Span]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start)


def _lines(suite: Suite, field: str, value: str, *services: str) -> list[dict[str, Any]]:
    lines = [line for line in read_log(suite.log) if line.get(field) == value]
    return [line for line in lines if not services or line["service"] in services]


def _check_log(suite: Suite, job: str, trace: str) -> None:
    """Check that every line parses, and that all lines about *job* have a trace, those of workers its own.

    Requests about it have traces of their own; calls for housekeeping, which are logged at DEBUG, have none.
    """
    lines = _lines(suite, "job", f"jobs/{job}")
    assert [line for line in lines if not line.get("trace_id") and line["level"] != "DEBUG"] == []
    of_worker = [line["trace_id"] for line in lines if line["service"] == "fetcher"]
    assert set(of_worker) == {trace}


def test_download(suite: Suite, collector: Receiver, site: Site) -> None:
    """One trace, of the caller, from the HTTP request to the file and the webhook; no span has a URL."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with webhook_receiver.running_receiver() as receiver:
        webhook = {"url": f"{receiver.url}?key=hunter2", "eventTypes": ["job.succeeded"]}
        created = suite.http.post("/v1/webhooks", json=webhook).raise_for_status().json()
        url = site.url("/watch/demo?token=hunter2")
        job = _create(suite, url, {"traceparent": f"00-{trace}-{_CALLER}-01"})
        spans = collector.wait_for(trace, *(line.split(maxsplit=2)[2] for line in _TREE))
        (delivery,) = receiver.received
        suite.http.delete(f"/v1/{created['name']}").raise_for_status()

    assert format_tree(spans) == _TREE
    assert not any(span.error for span in spans)
    (request,), (attempt,), (post,) = (
        _named(spans, name) for name in ("POST /api/v1/download", "attempt", "POST webhook")
    )
    assert request.parent_id == _CALLER
    assert request.attributes["http.route"] == "/api/v1/download"
    assert (attempt.attributes["reelhaul.job"], attempt.attributes["reelhaul.outcome"]) == (
        f"jobs/{job}",
        "SUCCEEDED",
    )
    assert delivery.headers["traceparent"] == f"00-{trace}-{post.span_id}-01"
    assert delivery.headers["x-amzn-trace-id"] == (
        f"Root=1-{trace[:8]}-{trace[8:]};Parent={post.span_id};Sampled=1"
    )
    text = repr(spans)
    assert "hunter2" not in text
    assert "://" not in text
    assert {call["x-collector-key"] for call in collector.metadata} == {"secret"}
    assert {resource["deployment.environment"] for resource in collector.resources} == {"test"}
    _check_log(suite, job, trace)


def test_lost_worker(suite: Suite, collector: Receiver, site: Site) -> None:
    """The attempt of a killed worker is in the trace as lost; the next one links to it."""
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    job = _create(
        suite, site.url(f"/watch/demo?media.rate={_RATE}"), {"traceparent": f"00-{trace}-{_CALLER}-01"}
    )
    wait_until_downloading(suite, job, 50_000)
    suite.wait_for_restart("fetcher", suite.kill("fetcher"))
    assert "completed" in wait_for_end(suite, job)
    spans = collector.wait_for(trace, "attempt", "attempt", "uploading", "POST /api/v1/download")
    lost, succeeded = _named(spans, "attempt")
    assert (lost.error, lost.attributes["reelhaul.attempt"]) == ("WORKER_LOST", 1)
    assert (succeeded.error, succeeded.links) == ("", [lost.span_id])
    (created,) = [span for span in spans if span.kind == "SERVER" and span.name.endswith("CreateDownload")]
    assert {span.parent_id for span in (lost, succeeded)} == {created.span_id}
    assert {span.parent_id for span in _named(spans, "uploading")} == {succeeded.span_id}
    assert len(_named(spans, "send WORK")) == 2
    _check_log(suite, job, trace)


def test_cancelled_job(suite: Suite, collector: Receiver, site: Site) -> None:
    """A cancelled job ends its attempt and the stage that was interrupted; X-Ray's header names the trace."""
    trace = "6bf92f3577b34da6a3ce929d0e0e4736"
    xray = f"Root=1-{trace[:8]}-{trace[8:]};Sampled=1"
    url = site.url(f"/watch/demo?media.rate={_RATE}")
    job = _create(suite, url, {"x-amzn-trace-id": xray})
    wait_until_downloading(suite, job, 50_000)
    suite.http.delete(f"/api/v1/jobs/{job}").raise_for_status()
    spans = collector.wait_for(trace, "attempt", "downloading", "POST /api/v1/download")
    (attempt,), (stage,) = _named(spans, "attempt"), _named(spans, "downloading")
    assert (attempt.error, attempt.attributes["reelhaul.outcome"]) == ("", "CANCELLED")
    assert (stage.parent_id, stage.error) == (attempt.span_id, "CancelledError")
    (request,) = _named(spans, "POST /api/v1/download")
    assert request.parent_id == ""


def test_unsampled_request(suite: Suite, collector: Receiver, site: Site) -> None:
    """A trace that is not sampled has no span, and the lines of the log have its id all the same."""
    body = {"url": site.url(f"/watch/demo?media.rate={_RATE}")}
    response = suite.http.post("/api/v1/download", json=body).raise_for_status()
    job, request = response.json()["job_id"], response.headers["x-request-id"]
    suite.wait_for("a claim", lambda: _lines(suite, "job", f"jobs/{job}", "fetcher"))
    lines = suite.wait_for("a line", lambda: _lines(suite, "request_id", request, "gateway"))
    (trace,) = {line["trace_id"] for line in lines}
    suite.http.delete(f"/api/v1/jobs/{job}").raise_for_status()
    _check_log(suite, job, trace)
    assert trace not in {span.trace_id for span in collector.spans}
