"""Admission of jobs that no caller creates: those of schedules, and of the entries of lists."""

from __future__ import annotations

from collections.abc import Sequence

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import CheckJob
from reelhaul_jobs.model.tenant import TenantState
from reelhaul_jobs.ports.api_keys import ApiKeyStore
from reelhaul_jobs.ports.tenants import TenantStore
from reelhaul_runtime.auth.site_rules import SiteRules, check_site, site_rules
from reelhaul_runtime.errors import StateConflict


class JobAdmission:
    """Checks jobs against the present rules of the server, of their tenant, and of the key behind them."""

    def __init__(self, tenants: TenantStore, keys: ApiKeyStore, server_rules: Sequence[SiteRules]) -> None:
        self._tenants = tenants
        self._keys = keys
        self._server_rules = server_rules

    async def site_rules(self, tenant: str, api_key: str) -> Sequence[SiteRules]:
        """Return the rules for jobs of *tenant* and of the key *api_key* (by id; empty: of none)."""
        rules = [*self._server_rules]
        if (owner := await self._tenants.find(tenant)) is not None:
            rules += site_rules("the tenant", owner.allowed_sites, owner.denied_sites)
        if api_key and (found := await self._keys.find_by_id(api_key)) is not None:
            rules += site_rules("the API key", found[0].allowed_sites, found[0].denied_sites)
        return rules

    async def check_of_schedule(self, tenant: str, api_key: str) -> CheckJob:
        """Return the check of the jobs of a schedule of *tenant* that was created with *api_key*.

        It raises STATE_CONFLICT if the tenant is disabled or being deleted, SITE_FORBIDDEN.
        """
        owner, rules = await self._tenants.find(tenant), await self.site_rules(tenant, api_key)

        def check(job: Job) -> None:
            if owner is not None and owner.state is not TenantState.ACTIVE:
                text = f"{owner.name} is {owner.state.name}: its schedules create no jobs"
                raise StateConflict(owner.name, owner.state.name, text)
            check_site(job.url, "job_template.url", rules)

        return check
