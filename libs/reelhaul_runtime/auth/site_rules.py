"""Site rules: which sites the server, a tenant or a key allows jobs and probes of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, Violation
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.sites import hostname, site_names


@dataclass(frozen=True, slots=True)
class SiteRules:
    """Sites that one party allows and denies: normalized host names, which include their subdomains.

    All domains of one operator are its site too: "youtube.com" includes youtu.be.
    """

    #: Whose rules they are, for errors.
    of: str
    #: Empty: all.
    allowed: frozenset[str] = field(default_factory=frozenset)
    denied: frozenset[str] = field(default_factory=frozenset)

    def allow(self, url: str) -> bool:
        """Return whether the site of *url* is allowed, and not denied."""
        names = set(site_names(hostname(url)))
        return names.isdisjoint(self.denied) and not (self.allowed and names.isdisjoint(self.allowed))


@lru_cache(maxsize=1024)
def _rules(of: str, allowed: tuple[str, ...], denied: tuple[str, ...]) -> SiteRules:
    return SiteRules(of, frozenset(allowed), frozenset(denied))


def site_rules(of: str, allowed: Iterable[str], denied: Iterable[str]) -> Sequence[SiteRules]:
    """Return the rules of one party, of whom *of* says who it is; none if they allow everything."""
    lists = tuple(allowed), tuple(denied)
    return [_rules(of, *lists)] if any(lists) else []


def rules_of_caller(caller: Caller) -> Sequence[SiteRules]:
    """Return the rules of the caller's tenant and key."""
    rules = list[SiteRules]()
    if caller.tenant_resource is not None:
        tenant = caller.tenant_resource
        rules += site_rules("the tenant", tenant.allowed_sites, tenant.denied_sites)
    if caller.api_key is not None:
        rules += site_rules("the API key", caller.api_key.allowed_sites, caller.api_key.denied_sites)
    return rules


def check_site(url: str, name: str, rules: Iterable[SiteRules]) -> None:
    """Raise SITE_FORBIDDEN of the field *name* unless all *rules* allow the site of *url*, a valid URL."""
    for each in rules:
        if not each.allow(url):
            host = hostname(url)
            text = f"{each.of} does not allow downloads from {host}"
            raise ReelhaulError(
                ErrorReason.SITE_FORBIDDEN,
                f"{name}: {text}",
                metadata={"host": host},
                violations=[Violation(name, text)],
            )
