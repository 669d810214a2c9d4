"""The limits of the caller's jobs, from its key, its tenant and the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_runtime import identity
from reelhaul_runtime.auth.level_quotas import UNLIMITED, smallest_limit
from reelhaul_runtime.auth.site_rules import SiteRules, rules_of_caller

#: Returns the limits of the jobs of the present caller.
CallerLimits = Callable[[], JobLimits]

_NO_QUOTA = api_key_pb2.Quota()


def limits_of_caller(server_rules: Sequence[SiteRules]) -> JobLimits:
    """Return the limits of the caller's jobs, where *server_rules* apply to everyone."""
    caller = identity.caller()
    if caller.api_key is None and caller.tenant_resource is None:
        return JobLimits(server_rules)
    tenant = caller.tenant_resource
    key_quota = caller.api_key.quota if caller.api_key else _NO_QUOTA
    tenant_quota = tenant.quota if tenant else _NO_QUOTA
    return JobLimits(
        sites=[*server_rules, *rules_of_caller(caller)],
        max_bytes=smallest_limit(key_quota.bytes_per_job, tenant_quota.bytes_per_job),
        max_seconds=_plausible(smallest_limit(key_quota.seconds_per_job, tenant_quota.seconds_per_job)),
        retention=tenant.retention.ToTimedelta() if tenant and tenant.HasField("retention") else None,
    )


def _plausible(seconds: int) -> int:
    """Return *seconds*, or -1 if they are more than any media has."""
    return seconds if seconds <= 10 * 366 * 86_400 else UNLIMITED
