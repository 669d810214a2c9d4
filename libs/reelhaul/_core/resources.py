"""Jobs, schedules, webhooks, keys and tenants, for clients without asyncio: the same methods, which block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reelhaul._core.async_admin import AsyncKeys, AsyncTenants
from reelhaul._core.async_resources import AsyncJobs, AsyncSchedules, AsyncWebhooks
from reelhaul._core.event_loop_thread import EventLoopThread
from reelhaul.admin.v1.api_key_pb2 import ApiKey, Usage
from reelhaul.admin.v1.tenant_pb2 import Tenant
from reelhaul.jobs.v1 import job_service_pb2 as jobs
from reelhaul.jobs.v1.job_pb2 import Attempt, Job
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.webhook_pb2 import Delivery, Webhook
from reelhaul.storage.v1.storage_service_pb2 import SignArtifactUrlResponse


class Jobs:
    """Jobs with everything that is known of them, named ``jobs/{id}`` or by id.

    The methods of the client itself have a simpler form of the same jobs.
    """

    def __init__(self, loop: EventLoopThread, resources: AsyncJobs) -> None:
        self._loop, self._async = loop, resources

    def get(self, name: str) -> Job:
        """Return a job with its description, formats and artifacts."""
        return self._loop.run(self._async.get(name))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        order_by: str = "",
        full: bool = False,
    ) -> Iterator[Job]:
        """Yield the jobs that match *filter* (AIP-160, ListJobsRequest.filter), newest first.

        With *full*, they have descriptions and formats too.
        """
        return self._loop.iterate(self._async.list(filter, order_by=order_by, full=full))

    def list_attempts(self, name: str) -> Iterator[Attempt]:
        """Yield the attempts of a job, newest first."""
        return self._loop.iterate(self._async.list_attempts(name))

    def pause(self, name: str) -> Job:
        """Pause a job: no worker takes it until ``resume``. STATE_CONFLICT if it has ended."""
        return self._loop.run(self._async.pause(name))

    def resume(self, name: str) -> Job:
        """Let a paused job go on. STATE_CONFLICT if it has ended."""
        return self._loop.run(self._async.resume(name))

    def batch_cancel(self, names: Sequence[str]) -> Sequence[Job]:
        """Cancel jobs, those that have ended excepted; return all of them."""
        return self._loop.run(self._async.batch_cancel(names))

    def summarize(self, query: jobs.SummarizeJobsRequest | Mapping[str, Any]) -> jobs.SummarizeJobsResponse:
        """Return counts, bytes and latencies over time."""
        return self._loop.run(self._async.summarize(query))

    def sign_url(
        self, artifact: str, *, ttl_seconds: float = 3600, inline: bool = False
    ) -> SignArtifactUrlResponse:
        """Return a link to *artifact*, by name, that needs no key, for *ttl_seconds*, at most 7 days.

        With *inline*, a browser shows the file instead of saving it.
        """
        return self._loop.run(self._async.sign_url(artifact, ttl_seconds=ttl_seconds, inline=inline))


class Schedules:
    """Schedules, which create jobs at times of a cron expression, named ``schedules/{id}`` or by id."""

    def __init__(self, loop: EventLoopThread, resources: AsyncSchedules) -> None:
        self._loop, self._async = loop, resources

    def create(self, schedule: Schedule | Mapping[str, Any], schedule_id: str = "") -> Schedule:
        """Create a schedule, under *schedule_id* if it is given."""
        return self._loop.run(self._async.create(schedule, schedule_id))

    def get(self, name: str) -> Schedule:
        """Return a schedule."""
        return self._loop.run(self._async.get(name))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> Iterator[Schedule]:
        """Yield the schedules that match *filter* (ListSchedulesRequest.filter), newest first."""
        return self._loop.iterate(self._async.list(filter))

    def update(self, name: str, schedule: Schedule | Mapping[str, Any], fields: Sequence[str]) -> Schedule:
        """Change *fields* of a schedule to what *schedule* has, or to their defaults."""
        return self._loop.run(self._async.update(name, schedule, fields))

    def delete(self, name: str) -> None:
        """Delete a schedule; its jobs stay."""
        self._loop.run(self._async.delete(name))

    def pause(self, name: str) -> Schedule:
        """Let a schedule create no jobs until it is resumed."""
        return self._loop.run(self._async.pause(name))

    def resume(self, name: str) -> Schedule:
        """Let a paused or disabled schedule create jobs again."""
        return self._loop.run(self._async.resume(name))

    def run(self, name: str) -> Job:
        """Create a job of a schedule now, beside its times."""
        return self._loop.run(self._async.run(name))


class Webhooks:
    """Webhooks, named ``webhooks/{id}`` or by id; deliveries are named by their full name.

    ``secret`` is set only in what ``create`` and ``rotate_secret`` return.
    """

    def __init__(self, loop: EventLoopThread, resources: AsyncWebhooks) -> None:
        self._loop, self._async = loop, resources

    def create(self, webhook: Webhook | Mapping[str, Any], webhook_id: str = "") -> Webhook:
        """Create a webhook, under *webhook_id* if it is given."""
        return self._loop.run(self._async.create(webhook, webhook_id))

    def get(self, name: str) -> Webhook:
        """Return a webhook."""
        return self._loop.run(self._async.get(name))

    def list(self) -> Iterator[Webhook]:
        """Yield the webhooks, newest first."""
        return self._loop.iterate(self._async.list())

    def update(self, name: str, webhook: Webhook | Mapping[str, Any], fields: Sequence[str]) -> Webhook:
        """Change *fields* of a webhook to what *webhook* has, or to their defaults."""
        return self._loop.run(self._async.update(name, webhook, fields))

    def delete(self, name: str) -> None:
        """Delete a webhook and its deliveries."""
        self._loop.run(self._async.delete(name))

    def test(self, name: str) -> Delivery:
        """Send a test event; return its delivery once the endpoint has responded."""
        return self._loop.run(self._async.test(name))

    def rotate_secret(self, name: str, grace_seconds: float | None = None) -> Webhook:
        """Give a webhook a new secret; the old one signs too for *grace_seconds* more, by default a day."""
        return self._loop.run(self._async.rotate_secret(name, grace_seconds))

    def list_deliveries(
        self,
        name: str,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> Iterator[Delivery]:
        """Yield the deliveries of a webhook that match *filter* (ListDeliveriesRequest), newest first."""
        return self._loop.iterate(self._async.list_deliveries(name, filter))

    def redeliver(self, delivery: str) -> Delivery:
        """Send a delivery, by name, again."""
        return self._loop.run(self._async.redeliver(delivery))


class Keys:
    """API keys, named ``apiKeys/{id}`` or by id; most methods need a key of level ADMIN.

    ``key_string`` is set only in what ``create`` and ``rotate`` return.
    """

    def __init__(self, loop: EventLoopThread, resources: AsyncKeys) -> None:
        self._loop, self._async = loop, resources

    def create(self, key: ApiKey | Mapping[str, Any]) -> ApiKey:
        """Create a key."""
        return self._loop.run(self._async.create(key))

    def get(self, name: str = "me") -> ApiKey:
        """Return a key, by default that of this client."""
        return self._loop.run(self._async.get(name))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        show_deleted: bool = False,
    ) -> Iterator[ApiKey]:
        """Yield the keys that match *filter* (AIP-160, ListApiKeysRequest.filter), newest first."""
        return self._loop.iterate(self._async.list(filter, show_deleted=show_deleted))

    def update(self, name: str, key: ApiKey | Mapping[str, Any], fields: Sequence[str]) -> ApiKey:
        """Change *fields* of a key to what *key* has, or to their defaults."""
        return self._loop.run(self._async.update(name, key, fields))

    def delete(self, name: str) -> ApiKey:
        """Delete a key: it stops working now, and can be undeleted for 30 days."""
        return self._loop.run(self._async.delete(name))

    def undelete(self, name: str) -> ApiKey:
        """Restore a deleted key."""
        return self._loop.run(self._async.undelete(name))

    def rotate(self, name: str, grace_seconds: float = 0) -> ApiKey:
        """Give a key a new string; the old one works for *grace_seconds* more."""
        return self._loop.run(self._async.rotate(name, grace_seconds))


class Tenants:
    """Tenants, named ``tenants/{id}`` or by id; a key below level FULL_ACCESS sees only its own, ``me``."""

    def __init__(self, loop: EventLoopThread, resources: AsyncTenants) -> None:
        self._loop, self._async = loop, resources

    def create(self, tenant: Tenant | Mapping[str, Any], tenant_id: str = "") -> Tenant:
        """Create a tenant. Without *tenant_id* the server chooses one."""
        return self._loop.run(self._async.create(tenant, tenant_id))

    def get(self, name: str = "me") -> Tenant:
        """Return a tenant, by default that of this client."""
        return self._loop.run(self._async.get(name))

    def get_usage(self, name: str = "me") -> Usage:
        """Return the quota that a tenant has used."""
        return self._loop.run(self._async.get_usage(name))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> Iterator[Tenant]:
        """Yield the tenants that match *filter* (AIP-160, ListTenantsRequest.filter), by name."""
        return self._loop.iterate(self._async.list(filter))

    def update(self, name: str, tenant: Tenant | Mapping[str, Any], fields: Sequence[str]) -> Tenant:
        """Change *fields* of a tenant to what *tenant* has, or to their defaults."""
        return self._loop.run(self._async.update(name, tenant, fields))

    def delete(self, name: str, *, force: bool = False) -> Tenant:
        """Delete a tenant; with *force* also if it owns keys, jobs or other resources."""
        return self._loop.run(self._async.delete(name, force=force))
