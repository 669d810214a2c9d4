"""Random requests by the OpenAPI document: each response must be one that the document allows."""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import APIOperation, Case, CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.suite.suite import running_suite

_TIMEOUT_SECONDS = 20


def is_no_server_failure(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """Fail for 5xx, other than a documented 501, and 504 of a stream, whose deadline is short."""
    if response.status_code == 501 and "501" in case.operation.definition.raw["responses"]:
        return None
    if response.status_code == 504 and _is_stream(case.operation):
        return None
    return not_a_server_error(ctx, response, case)


_CHECKS = [
    is_no_server_failure,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def load(document: Mapping[str, Any]) -> list[APIOperation]:
    """Return the operations of *document*, without default responses: each status must be documented."""
    strict = copy.deepcopy(dict(document))
    for item in strict["paths"].values():
        for operation in item.values():
            operation["responses"].pop("default", None)
    operations = [result.ok() for result in schemathesis.openapi.from_dict(strict).get_all_operations()]
    return [
        each for each in operations if "Not implemented" not in each.definition.raw.get("description", "")
    ]


def fuzz(
    operation: APIOperation,
    base_url: str,
    session: requests.Session,
    *,
    examples: int,
    seed: int,
    known: Mapping[str, str],
) -> list[str]:
    """Send *examples* valid and as many invalid requests; return what is wrong with the responses.

    *known* are path parameters of resources that exist: as many requests again name these.
    """
    names = {parameter.name for parameter in operation.path_parameters}
    paths: list[dict[str, str] | None] = [None]
    if names and names <= known.keys():
        paths.append({name: known[name] for name in names})
    strategies = [
        operation.as_strategy(mode, path_parameters=path_parameters)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        for path_parameters in paths
    ]
    # Streams of existing resources do not end otherwise.
    headers = {"X-Server-Timeout": "0.2"} if _is_stream(operation) else {}
    failures: dict[str, None] = {}

    def send(case: Case) -> None:
        try:
            response = case.call(base_url, session, headers=headers, timeout=_TIMEOUT_SECONDS)
            case.validate_response(response, checks=_CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                failures[f"{case.as_curl_command()}\n{failure}"] = None

    for strategy in strategies:
        _run(send, strategy, examples, seed)
    return list(failures)


def _run(send: Callable[[Case], None], strategy: SearchStrategy[Case], examples: int, seed: int) -> None:
    run = hypothesis.given(strategy)(send)
    run = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(run)
    # An operation without parameters has no invalid requests.
    with suppress(Unsatisfiable):
        hypothesis.seed(seed)(run)()


def _is_stream(operation: APIOperation) -> bool:
    response = operation.definition.raw["responses"].get("200", {})
    return "text/event-stream" in response.get("content", {})


def create_resources(http: httpx.Client) -> dict[str, str]:
    """Create a job that waits and a schedule; return the path parameters that name them."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    job = {"url": "https://media.example/fuzz", "scheduleTime": tomorrow.isoformat()}
    schedule = {"jobTemplate": {"url": "https://media.example/fuzz"}, "cron": "0 0 1 1 *"}
    job_id = _create(http, "/v1/jobs", job)
    return {"job_id": job_id, "job": job_id, "schedule": _create(http, "/v1/schedules", schedule)}


def _create(http: httpx.Client, path: str, resource: Mapping[str, Any]) -> str:
    response = http.post(path, json=resource)
    response.raise_for_status()
    return str(response.json()["name"]).rpartition("/")[2]


def main() -> int:
    """Fuzz a suite of its own with more requests than the tests send; return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--examples", type=int, default=100, help="valid and invalid requests per operation")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--only", default="", help="part of an operation, e.g. 'GET /v1/jobs'")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    count = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        running_suite(Path(folder) / "data") as suite,
        requests.Session() as session,
    ):
        session.trust_env = False
        known = create_resources(suite.http)
        for operation in load(suite.http.get("/openapi.json").json()):
            if arguments.only in operation.label:
                failures = fuzz(
                    operation,
                    suite.address("gateway"),
                    session,
                    examples=arguments.examples,
                    seed=arguments.seed,
                    known=known,
                )
                count += len(failures)
                print(f"{operation.label}: {len(failures)} failures", *failures, sep="\n\n", flush=True)
    return 1 if count else 0


if __name__ == "__main__":
    raise SystemExit(main())
