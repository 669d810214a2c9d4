"""Quotas of a running suite: what a key may use, what it sees of that, and what happens beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from tests.sites.site import Site
from tests.suite.suite import Suite, running_suite

_MEDIA = "/media/1080.mp4"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with keys, whose workers report every second."""
    with running_suite(
        tmp_path_factory.mktemp("quotas") / "data", auth="keys", jobs_lease_seconds="3"
    ) as suite:
        yield suite


class User:
    """A caller with a new key of a new tenant."""

    def __init__(self, suite: Suite, tenant_quota: dict[str, int], key_quota: dict[str, int]) -> None:
        self._suite = suite
        first_key = (suite.data_dir / "run" / "api-key").read_text().strip()
        with self._client(first_key) as operator:
            self.tenant = operator.post("/v1/tenants", json={"quota": tenant_quota}).json()["name"]
            key = {"permission": "PERMISSION_LEVEL_DOWNLOAD", "tenant": self.tenant, "quota": key_quota}
            created = operator.post("/v1/apiKeys", json=key).json()
        self.key, self.client = created["name"], self._client(created["keyString"])

    def _client(self, key: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self._suite.address("gateway"), headers=headers)

    def create(self, url: str) -> httpx.Response:
        return self.client.post("/v1/jobs", json={"url": url})

    def get(self, name: str) -> Any:
        return self.client.get(f"/v1/{name}").json()

    def wait_for_state(self, name: str, state: str) -> Any:
        """Wait until the job has *state*; return it."""
        self._suite.wait_for(f"{name} {state}", lambda: self.get(name)["state"] == state)
        return self.get(name)

    def usage(self, owner: str) -> dict[str, tuple[int, int]]:
        """Return what is used of each limit, and the limit."""
        metrics = self.get(f"{owner}/usage")["metrics"]
        return {
            each["quotaMetric"]: (int(each.get("used", 0)), int(each.get("limit", 0))) for each in metrics
        }


NewUser = Callable[[dict[str, int], dict[str, int]], User]


@pytest.fixture
def new_user(suite: Suite) -> Iterator[NewUser]:
    """Create users with the quotas of their tenant and of their key."""
    with ExitStack() as stack:

        def create(tenant_quota: dict[str, int], key_quota: dict[str, int]) -> User:
            user = User(suite, tenant_quota, key_quota)
            stack.enter_context(user.client)
            return user

        yield create


def test_use_and_limits(new_user: NewUser, site: Site):
    """A download is counted by its bytes and files; jobs beyond a limit wait or are refused as 429."""
    user = new_user({"jobsPerDay": 3}, {"concurrentJobs": 1})
    name = user.create(site.url(_MEDIA)).json()["name"]
    job = user.wait_for_state(name, "SUCCEEDED")
    size = sum(int(artifact["sizeBytes"]) for artifact in job["artifacts"])
    for owner in (user.key, "apiKeys/me", "tenants/me"):
        usage = user.usage(owner)
        assert usage["jobs_per_day"][0] == 1
        assert usage["bytes_per_day"][0] >= size
        assert usage["stored_bytes"][0] == size
    assert user.usage("tenants/me")["jobs_per_day"] == (1, 3)
    assert user.usage("apiKeys/me")["concurrent_jobs"] == (0, 1)

    slow = site.url("/watch/video?media.rate=1000")
    first, second = (user.create(slow).json()["name"] for _ in range(2))
    user.wait_for_state(first, "RUNNING")
    wait = user.get(second)["wait"]
    assert wait["reason"] == "QUOTA"
    assert user.key in wait["message"]
    refused = user.create(slow)
    assert refused.status_code == 429
    details = {each["@type"].rpartition(".")[2]: each for each in refused.json()["details"]}
    assert details["ErrorInfo"]["reason"] == "QUOTA_EXCEEDED"
    assert details["ErrorInfo"]["metadata"]["quotaMetric"] == "jobs_per_day"
    assert details["ErrorInfo"]["metadata"]["resetTime"].endswith("T00:00:00Z")
    assert details["QuotaFailure"]["violations"][0]["subject"] == user.tenant
    user.client.post(f"/v1/{first}:cancel", json={})
    user.wait_for_state(second, "RUNNING")
    user.client.post(f"/v1/{second}:cancel", json={})


def test_job_beyond_the_bytes_of_the_day(new_user: NewUser, site: Site):
    """A running job ends with QUOTA_EXCEEDED when the bytes of the day are used up."""
    user = new_user({}, {"bytesPerDay": 100_000})
    name = user.create(site.url("/watch/video?media.rate=100000")).json()["name"]
    job = user.wait_for_state(name, "FAILED")
    assert job["error"]["details"][0]["reason"] == "QUOTA_EXCEEDED"
    used, limit = user.usage("apiKeys/me")["bytes_per_day"]
    assert limit == 100_000 < used
    assert user.create(site.url(_MEDIA)).status_code == 429
