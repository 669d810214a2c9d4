"""docs/metrics.md against the metrics that the services of a suite expose, and a scrape while they work."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from tests.scrapes import parse, total
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite

SERVICES = ("gateway", "jobs", "fetcher", "storage")
#: Metrics that this suite has no reason to expose: it has no TLS and no cookies.
NOT_HERE = {"reelhaul_certificate_expiry_timestamp_seconds"}
#: Of every process, by prometheus_client.
FOREIGN = re.compile(r"(process|python)_\w+")
#: Modules whose metrics are objects; others are read at a scrape.
MODULES = (
    "reelhaul_runtime.metrics.instruments",
    "reelhaul_runtime.metrics.collectors",
    "reelhaul_runtime.rpc.metrics",
    *(f"reelhaul_{service}.metrics" for service in SERVICES),
)

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<type>\w+)(, shared)? \|(?P<labels>[^|]*)\|", re.MULTILINE)


@dataclass(frozen=True)
class Documented:
    """A row of docs/metrics.md."""

    type: str
    labels: frozenset[str]


def documented(section: str) -> Mapping[str, Documented]:
    """Return the metrics in *section* of docs/metrics.md, by name."""
    parts = _SECTION.split((Path(__file__).parents[2] / "docs/metrics.md").read_text())
    text = parts[parts.index(section) + 1]
    return {
        row["name"]: Documented(row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"])))
        for row in _ROW.finditer(text)
    }


OF_ALL = documented("All services")
DOCUMENTED = {service: {**OF_ALL, **documented(service)} for service in SERVICES}


@pytest.fixture(scope="module")
def texts(suite: Suite, site: Site) -> Mapping[str, str]:
    """What each service exposes once a few things have happened, by service."""
    for path, outcome in (("/media/360.mp4", "completed"), ("/media/none.mp4", "failed")):
        assert outcome in wait_for_end(suite, create_download(suite, site.url(path)))
    assert suite.http.get("/nowhere").status_code == 404
    return {service: scrape(suite, service).text for service in SERVICES}


def scrape(suite: Suite, service: str, accept: str = "text/plain") -> httpx.Response:
    """Scrape *service* of *suite*."""
    url = suite.metrics_url(service)
    return httpx.get(url, headers={"accept": accept}, trust_env=False, timeout=30).raise_for_status()


def types(text: str) -> dict[str, str]:
    """Return the types of the metrics in *text* by name."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("service", SERVICES)
def test_exposed_metrics_are_documented(texts: Mapping[str, str], service: str):
    """Each metric of a service is in docs/metrics.md, with its type, and its series have those labels."""
    exposed = {name: kind for name, kind in types(texts[service]).items() if not FOREIGN.fullmatch(name)}
    documented_types = {name: metric.type for name, metric in DOCUMENTED[service].items()}
    assert {name: documented_types.get(name) for name in exposed} == exposed
    for sample in parse(texts[service]):
        name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
        metric = DOCUMENTED[service].get(sample.name) or DOCUMENTED[service].get(name)
        if metric is not None:
            assert frozenset(sample.labels) - {"le"} == metric.labels, sample.name


def test_documented_metrics_are_exposed(texts: Mapping[str, str]):
    """Each metric of docs/metrics.md is exposed by its service, those of all by some."""
    exposed = {service: types(texts[service]).keys() for service in SERVICES}
    for service in SERVICES:
        assert documented(service).keys() - exposed[service] == set(), service
    assert OF_ALL.keys() - NOT_HERE - set().union(*exposed.values()) == set()


@pytest.mark.parametrize("module", MODULES)
def test_labels_are_those_of_the_documentation(module: str):
    """Metrics that nothing has happened to yet have the documented labels too."""
    rows = {name: row for rows in DOCUMENTED.values() for name, row in rows.items()}
    found: dict[str, MetricWrapperBase] = {}
    for each in vars(importlib.import_module(module)).values():
        if isinstance(each, MetricWrapperBase):
            # The first one; others of the name are single series of it.
            found.setdefault(next(iter(each.describe())).name, each)
    assert found
    for metric in found.values():
        (description,) = metric.describe()
        name = description.name + ("_total" if description.type == "counter" else "")
        assert description.type == rows[name].type
        if rows[name].labels:
            # Raises ValueError for other names of labels.
            metric.labels(**dict.fromkeys(rows[name].labels, "of a test"))
            metric.remove(*["of a test"] * len(rows[name].labels))


@pytest.mark.parametrize("service", SERVICES)
def test_open_metrics(suite: Suite, service: str):
    """What Prometheus asks for is strict OpenMetrics: no series twice, counters end in _total."""
    response = scrape(suite, service, CONTENT_TYPE_LATEST)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert list(parse_open_metrics(response.text))


def test_counters_equal_what_clients_did(suite: Suite):
    """N requests to a route are N more of it at the gateway, and N more calls at jobs; none is a label."""
    route, method = {"http_route": "/v1/{name=jobs/*}"}, {"grpc_method": "GetJob", "grpc_type": "unary"}

    def count() -> tuple[float, float]:
        return (
            total(parse(scrape(suite, "gateway").text), "http_server_requests_total", **route),
            total(parse(scrape(suite, "jobs").text), "grpc_server_started_total", **method),
        )

    requests, calls = count()
    with ThreadPoolExecutor(8) as pool:
        ids = [f"018f0000-0000-7000-8000-{number:012}" for number in range(100)]
        statuses = set(pool.map(lambda id_: suite.http.get(f"/v1/jobs/{id_}").status_code, ids))
    assert statuses == {404}
    suite.wait_for("counted requests", lambda: count() == (requests + 100, calls + 100))
    for service in SERVICES:
        assert "018f0000" not in scrape(suite, service).text, service


def test_a_download_in_the_counters_of_jobs_and_fetcher(suite: Suite, site: Site):
    """One download is one job, one attempt, its bytes in each counter of bytes, and its stages."""
    stages = ("PROBING", "DOWNLOADING", "VERIFYING", "UPLOADING")
    stage_count = "reelhaul_fetch_stage_seconds_count"

    def count() -> dict[str, float]:
        jobs, fetcher = parse(scrape(suite, "jobs").text), parse(scrape(suite, "fetcher").text)
        return {stage: total(fetcher, stage_count, stage=stage) for stage in stages} | {
            "created": total(jobs, "reelhaul_jobs_created_total", source="api"),
            "ended": total(jobs, "reelhaul_jobs_ended_total", state="SUCCEEDED", reason=""),
            "attempts": total(jobs, "reelhaul_attempts_ended_total", outcome="SUCCEEDED", reason=""),
            "started": total(jobs, "reelhaul_job_start_seconds_count", priority="NORMAL"),
            "stored": total(jobs, "reelhaul_job_stored_bytes_total"),
            "received": total(fetcher, "reelhaul_fetch_bytes_total"),
            "in": total(fetcher, "reelhaul_egress_bytes_total", direction="in"),
        }

    before = count()
    end = wait_for_end(suite, create_download(suite, site.url("/media/720.mp4")))
    size = end["completed"]["files"][0]["size_bytes"]
    # The service may tell of the end a moment before the attempt has ended.
    suite.wait_for("the end of the attempt", lambda: count()["UPLOADING"] > before["UPLOADING"])
    did = {name: after - before[name] for name, after in count().items()}
    once = (*stages, "created", "ended", "attempts", "started")
    assert {name: did[name] for name in once} == dict.fromkeys(once, 1)
    assert did["stored"] == size
    # The extractor's look at the URL may receive as much again before it is cut.
    assert size <= did["received"] == did["in"] <= 2 * size + 100_000
    samples = parse(scrape(suite, "fetcher").text)
    assert total(samples, "reelhaul_engine_process_bytes", process="zygote") > 10_000_000
    assert total(samples, "reelhaul_engine_release_timestamp_seconds") > 1_700_000_000


def test_scrapes_during_load_take_bounded_time(suite: Suite):
    """A scrape of a service that is busy waits for its turn in the event loop, and no longer."""
    with ThreadPoolExecutor(8) as pool:
        load = [pool.submit(suite.http.get, "/v1/jobs") for _ in range(200)]
        for service in SERVICES:
            start = time.monotonic()
            scrape(suite, service)
            assert time.monotonic() - start < 10, service
        assert {request.result().status_code for request in load} == {200}
