"""Webhooks through SIGKILLs of jobs and an endpoint that fails for a while."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from tests.suite.suite import Suite, running_suite
from tests.webhook_receiver import Received, running_receiver

from reelhaul.cli.commands import reelhaul

_JOBS = 12
# What is done to each job, and the event of it.
_ACTIONS = (("pause", "job.paused"), ("resume", ""), ("pause", "job.paused"), ("cancel", "job.cancelled"))
_EVENTS = [event for _, event in _ACTIONS if event]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    data_dir = tmp_path_factory.mktemp("webhooks") / "data"
    with running_suite(data_dir, jobs_webhook_networks="127.0.0.1/32") as running:
        yield running


def test_events_survive_kills(suite: Suite) -> None:
    """Each event of each job arrives, in numbered order, though jobs is killed and the endpoint fails."""
    failing: set[str] = set()

    held, killed = threading.Event(), threading.Event()
    held_ids: list[str] = []

    def respond(received: Received) -> tuple[int, dict[str, str]]:
        # One request is under way when jobs is killed; the first try of the first events fails.
        if len(failing) == 6 and not held_ids:
            held_ids.append(received.event_id)
            held.set()
            killed.wait(60)
            return 204, {}
        if len(failing) < 6 and received.event_id not in failing:
            failing.add(received.event_id)
            return 503, {}
        return 204, {}

    with running_receiver() as receiver:
        receiver.respond = respond
        body = {"url": receiver.url, "eventTypes": ["job.*"]}
        webhook = suite.http.post("/v1/webhooks", json=body).raise_for_status().json()
        with ThreadPoolExecutor(3) as threads:
            jobs = list(threads.map(lambda _: _create(suite), range(_JOBS)))
            acting = [threads.submit(_act, suite, job) for job in jobs]
            for wait in (
                lambda: held.is_set() or None,
                lambda: len(receiver.received) >= 2 * _JOBS or None,
            ):
                suite.wait_for("events", wait)
                pid = suite.kill("jobs")
                killed.set()
                suite.wait_for_restart("jobs", pid)
            for each in acting:
                each.result()

        def delivered() -> dict[str, list[Received]] | None:
            by_job: dict[str, list[Received]] = defaultdict(list)
            known = set()
            for received in list(receiver.received):
                if (received.event_id not in failing or received.event_id in known) and (
                    received.event_id not in {each.event_id for each in by_job[received.job]}
                ):
                    by_job[received.job].append(received)
                known.add(received.event_id)
            complete = [each for each in by_job.values() if len(each) == len(_EVENTS)]
            return by_job if len(complete) == _JOBS else None

        for job, arrived in suite.wait_for("all events", delivered, 120).items():
            assert job in jobs
            assert [each.event["type"] for each in arrived] == _EVENTS
            sequences = [int(each.event["sequence"]) for each in arrived]
            assert sequences == sorted(set(sequences))
            for each in arrived:
                each.verify(webhook["secret"])
        # Its response was lost with the process.
        assert [each.event_id for each in receiver.received].count(held_ids[0]) >= 2
        _check_log(suite, webhook["name"], {each.event_id for each in receiver.received})
        suite.http.delete(f"/v1/{webhook['name']}").raise_for_status()


def test_commands(suite: Suite) -> None:
    """The commands create, test, change, rotate, list and delete webhooks and their deliveries."""
    with running_receiver() as receiver:

        def run(*arguments: str, code: int = 0) -> Any:
            command = ["webhooks", *arguments, "--json", "--server", suite.address("gateway")]
            result = CliRunner().invoke(reelhaul, command)
            assert result.exit_code == code, result.output
            lines = [json.loads(line) for line in result.stdout.splitlines()]
            return lines[0] if len(lines) == 1 else lines

        created = run("create", receiver.url, "--id", "hook", "--event", "job.failed")
        assert (created["name"], created["eventTypes"]) == ("webhooks/hook", ["job.failed"])
        delivery = run("test", "hook")
        assert delivery["state"] == "SUCCEEDED"
        receiver.received[0].verify(created["secret"])
        changed = run("update", "webhooks/hook", "--event", "", "--filter", "labels.team = red", "--disable")
        assert (changed["state"], changed["filter"]) == ("DISABLED", "labels.team = red")
        assert "eventTypes" not in changed
        assert run("list") == run("show", "hook") == changed
        assert run("redeliver", delivery["name"], code=1)["reason"] == "STATE_CONFLICT"
        assert run("update", "hook", "--enable")["state"] == "ENABLED"
        run("redeliver", delivery["name"])
        suite.wait_for("redelivery", lambda: len(receiver.received) == 2 or None)
        assert run("rotate-secret", "hook", "--grace", "0s")["secret"] != created["secret"]
        receiver.respond = lambda received: (500, {})
        failed = run("test", "hook", code=1)
        assert run("deliveries", "hook", "--filter", "state = FAILED")["name"] == failed["name"]
        assert run("create", "https://10.0.0.1/", code=1)["reason"] == "URL_FORBIDDEN"
        assert run("delete", "hook") == {}
        assert run("list") == []

        arguments = ["create", receiver.url, "--id", "hook", "--server", suite.address("gateway")]
        shown = CliRunner().invoke(reelhaul, ["webhooks", *arguments])
        assert "whsec_" in shown.stdout
        assert "only time" in shown.stderr
        run("delete", "hook")


def _check_log(suite: Suite, webhook: str, event_ids: set[str]) -> None:
    """Wait until the log of deliveries has each event once, as successful."""

    def listed() -> list[dict[str, Any]] | None:
        path = f"/v1/{webhook}/deliveries?page_size=1000"
        found: list[dict[str, Any]] = suite.http.get(path).raise_for_status().json()["deliveries"]
        return found if {each["state"] for each in found} == {"SUCCEEDED"} else None

    found = suite.wait_for("successful deliveries", listed)
    assert sorted(each["eventId"] for each in found) == sorted(event_ids)
    assert len(found) == _JOBS * len(_EVENTS)


def _create(suite: Suite) -> str:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"url": "https://videos.example/1", "scheduleTime": tomorrow}
    return str(suite.http.post("/v1/jobs", json=body).raise_for_status().json()["name"])


def _act(suite: Suite, job: str) -> None:
    """Do all actions to *job*, each again until jobs answers; they have no effect the second time."""
    for action, _ in _ACTIONS:

        def act(action: str = action) -> bool | None:
            response = suite.http.post(f"/v1/{job}:{action}", json={})
            assert response.status_code in (200, 503, 504), response.text
            return response.status_code == 200 or None

        suite.wait_for(f"{action} of {job}", act)
