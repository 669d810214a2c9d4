"""What must hold in a simulation, judged from its observations alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from tests.simulation.simulation import Observations
from tests.simulation.workload import Workload


@dataclass(frozen=True)
class Check:
    """A value and its limit."""

    name: str
    value: float
    #: The value may not exceed it.
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return f"  {self.name:<66} {self.value:>9.2f}  limit {self.limit:>8.2f}  {verdict}"


def list_checks(seen: Observations, workload: Workload) -> Iterator[Check]:
    """Yield what must hold for *seen*."""
    size, shares = workload.size, list_shares(seen, workload)
    # Seconds until each tenant of weight 1 has had a start, three times, and until the window is taken.
    turn = sum(workload.weights.values()) / size.jobs_per_second
    patience = 3 * turn + size.job_seconds
    yield Check("published and leased jobs of a site above its limit", len(seen.exceeded), 0)
    yield Check("jobs published before an older one of their tenant and site", seen.disordered, 0)
    yield Check("share of idle slots after the first fifth of the time", idle_share(seen, workload), 0.05)
    yield Check("starts for their weights: 1 less Jain's index", 1 - fairness_index(shares), 0.05)
    yield Check("starts for their weights: the largest by the median", max(shares) / median(shares), 2)
    yield Check("starts for their weights: the median by the smallest", median(shares) / min(shares), 2)
    yield Check("longest time that a tenant waited with nothing running, s", seen.longest_idle, patience)
    for kind, waits in seen.waits.items():
        yield Check(f"longest wait of a {kind}, s", max(waits), patience)
    yield Check("sites where ten starts were due and none was", len(unserved_sites(seen, workload)), 0)


def list_shares(seen: Observations, workload: Workload) -> Sequence[float]:
    """Return the starts of each tenant for its weight."""
    return [seen.starts[tenant] / weight or 0.01 for tenant, weight in workload.weights.items()]


def fairness_index(shares: Sequence[float]) -> float:
    """Return Jain's index of *shares*: 1 if all are equal, 1/n if one has everything."""
    return mean(shares) ** 2 / mean(share**2 for share in shares)


def idle_share(seen: Observations, workload: Workload) -> float:
    """Return the share of slots that were idle after the first fifth of the time."""
    return 1 - mean(seen.busy[len(seen.busy) // 5 :]) / workload.size.slots


def unserved_sites(seen: Observations, workload: Workload) -> set[str]:
    """Return the sites at which nothing started, though ten of their tenants' starts would be theirs."""
    due = Counter[str]()
    for tenant, sites in workload.sites.items():
        due.update({site: seen.starts[tenant] / len(sites) for site in sites})
    return {site for site, starts in due.items() if starts >= 10} - seen.started_sites
