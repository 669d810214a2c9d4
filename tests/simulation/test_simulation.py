"""The simulation in its smallest form: the real dispatcher against few fetchers and a short backlog."""

from __future__ import annotations

import pytest
from tests.job_stores import open_store
from tests.simulation import backlog
from tests.simulation.checks import list_checks
from tests.simulation.simulation import Simulation
from tests.simulation.workload import Size, draw_workload
from tests.sqlite import create_migrated_file


@pytest.mark.parametrize("tenants", [4, 20], ids=["few tenants", "more tenants than slots"])
async def test_fairness_and_limits(tenants, tmp_path):
    """Shares follow the weights, site limits hold, slots stay busy, and nothing starves."""
    size = Size(
        fetchers=6, slots_per_fetcher=2, jobs=1_500, tenants=tenants, sites=4, seconds=40, job_seconds=3
    )
    workload = draw_workload(size, seed=tenants)
    create_migrated_file("reelhaul_jobs", tmp_path / "jobs.db")
    url = f"sqlite:///{tmp_path}/jobs.db"
    backlog.load(url, workload)
    async with open_store(url) as store:
        seen = await Simulation(store, workload).run()
    assert [str(check) for check in list_checks(seen, workload) if not check.passed] == []
