"""The simulation in its smallest form: the real dispatcher against few fetchers and a short backlog."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
from tests.job_stores import open_store
from tests.simulation import backlog
from tests.simulation.autoscaling import Autoscaler
from tests.simulation.checks import list_checks
from tests.simulation.simulation import Simulation
from tests.simulation.workload import Size, draw_workload
from tests.sqlite import create_migrated_file


@pytest.mark.parametrize("tenants", [4, 20], ids=["few tenants", "more tenants than slots"])
async def test_fairness_and_limits(tenants, tmp_path):
    """Shares follow the weights, site limits hold, slots stay busy, and nothing starves."""
    size = Size(
        fetchers=6, slots_per_fetcher=2, jobs=1_000, tenants=tenants, sites=4, seconds=30, job_seconds=3
    )
    workload = draw_workload(size, seed=tenants)
    create_migrated_file("reelhaul_jobs", tmp_path / "jobs.db")
    url = f"sqlite:///{tmp_path}/jobs.db"
    backlog.load(url, workload)
    async with open_store(url) as store:
        seen = await Simulation(store, workload).run()
    assert [str(check) for check in list_checks(seen, workload) if not check.passed] == []


def test_autoscaler_grows_by_half():
    """However long the queue is, the fetchers grow by half at each decision, also from none."""
    autoscaler = Autoscaler(
        slots_per_fetcher=2, target=2, min_fetchers=2, decision_seconds=15, start_seconds=20
    )
    counts = [count for _, count in islice(autoscaler.grow(2), 8)]
    assert counts == [2, 3, 5, 8, 12, 18, 27, 41]
    assert replace(autoscaler, min_fetchers=0).next_count(0) == 2
    assert autoscaler.seconds_to(1_000) == 15 * 35
