"""The plan of faults is drawn from the seed, and kills only processes that the run has."""

from __future__ import annotations

import random

import pytest
from tests.chaos.faults import FaultKind, plan_faults


@pytest.mark.parametrize(("s3", "killed"), [(0, False), (1, True)], ids=["disk", "s3"])
def test_s3_server_is_killed_in_runs_on_s3(s3: int, killed: bool) -> None:
    """The S3 server is killed in a run that stores on it, and in no other."""
    plan = list(plan_faults(random.Random(1), 90, {"fetcher": 3, "s3": s3}, stall=5))
    assert ("s3" in {fault.process for fault in plan}) == killed
    assert {fault.kind for fault in plan} == set(FaultKind) - {FaultKind.OUTAGE}
    assert plan == list(plan_faults(random.Random(1), 90, {"fetcher": 3, "s3": s3}, stall=5))


def test_outages_are_drawn_once_each() -> None:
    """Outages occur between the other faults, each at most once, and in no run that does not ask for them."""
    outages = ("partition-jobs-broker", "clock-back")
    plan = list(plan_faults(random.Random(1), 120, {"fetcher": 3}, 5, outages))
    assert sorted(fault.process for fault in plan if fault.kind is FaultKind.OUTAGE) == sorted(outages)
    assert {fault.kind for fault in plan} == set(FaultKind)
