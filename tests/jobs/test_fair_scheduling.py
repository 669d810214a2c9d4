"""What the picker promises, whatever the backlog looks like."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from reelhaul_jobs.model.fair_scheduling import InFlightCounts, ReadyJob, select_fairly, window_size
from reelhaul_jobs.model.rate_limit import UNLIMITED
from reelhaul_jobs.model.states import Priority

START = datetime(2030, 1, 1, tzinfo=UTC)

tenants = st.sampled_from("abcd")
sites = st.sampled_from(["one", "two", "three"])
rooms = st.dictionaries(sites, st.integers(0, 6))


def ready(tenant: str, site: str, number: int) -> ReadyJob:
    due = START + timedelta(seconds=number)
    return ReadyJob(f"{tenant}{number:04}", 1, tenant, Priority.NORMAL, "", site, due)


@st.composite
def backlogs(draw: st.DrawFn) -> dict[str, list[ReadyJob]]:
    """Each tenant's jobs in their order."""
    backlog: dict[str, list[ReadyJob]] = defaultdict(list)
    for number, (tenant, site) in enumerate(draw(st.lists(st.tuples(tenants, sites), max_size=40))):
        backlog[tenant].append(ready(tenant, site, number))
    return dict(backlog)


def test_who_holds_the_least_is_next():
    """Always one of the tenant that has the fewest in hand."""
    backlog = {tenant: [ready(tenant, "one", n) for n in range(3)] for tenant in "abc"}
    picked = select_fairly(backlog, 6, in_flight=InFlightCounts({"a": 2, "b": 1}))
    assert [job.id for job in picked] == ["c0000", "b0000", "c0001", "a0000", "b0001", "c0002"]
    assert len(select_fairly(backlog, 100)) == 9
    assert select_fairly(backlog, 0) == select_fairly({}, 5) == []


def test_weights():
    """A tenant of weight 3 gets three jobs for each of another."""
    backlog = {tenant: [ready(tenant, "one", n) for n in range(40)] for tenant in "ab"}
    picked = Counter(job.tenant for job in select_fairly(backlog, 40, weights={"a": 3.0}))
    assert dict(picked) == {"a": 30, "b": 10}


def test_full_site_holds_nothing_up():
    """A thousand jobs of a full site before it: the one of another site goes all the same."""
    backlog = {"a": [ready("a", "one", n) for n in range(1000)] + [ready("a", "two", 1000)]}
    assert [job.id for job in select_fairly(backlog, 5, free_slots={"one": 0})] == ["a1000"]


def test_seats_of_a_site_go_by_age():
    """Who holds much elsewhere still gets the one seat of a site, if it has waited longer for it."""
    backlog = {"a": [ready("a", "one", 0)], "b": [ready("b", "one", 1)]}
    held = InFlightCounts({"a": 10, "b": 0}, {("a", "two"): 10})
    assert [job.id for job in select_fairly(backlog, 5, in_flight=held, free_slots={"one": 1})] == ["a0000"]


@given(backlogs(), st.integers(0, 30), rooms)
def test_limits_hold(backlog, room, rooms):
    """Never more than the window takes, nor more of a site than it has room; nothing twice."""
    picked = select_fairly(backlog, room, free_slots=rooms)
    assert len(picked) <= room
    assert len({job.id for job in picked}) == len(picked)
    for site, number in Counter(job.site for job in picked).items():
        assert number <= rooms.get(site, UNLIMITED)


@given(backlogs(), st.integers(0, 30), rooms)
def test_work_conserving(backlog, room, rooms):
    """What the window and the sites have room for is picked: no full site, no tenant blocks another."""
    asked = Counter(job.site for jobs in backlog.values() for job in jobs)
    possible = sum(min(number, rooms.get(site, UNLIMITED)) for site, number in asked.items())
    assert len(select_fairly(backlog, room, free_slots=rooms)) == min(room, possible)


@given(backlogs(), st.integers(0, 30), st.dictionaries(tenants, st.integers(0, 5)))
def test_fair_within_one_job(backlog, room, by_tenant):
    """Nobody who still waits holds less, by more than one job, than one who was just given some."""
    picked = Counter(job.tenant for job in select_fairly(backlog, room, in_flight=InFlightCounts(by_tenant)))
    has = {tenant: by_tenant.get(tenant, 0) + picked[tenant] for tenant in backlog}
    for waiting, jobs in backlog.items():
        if picked[waiting] < len(jobs):
            assert all(has[given] <= has[waiting] + 1 for given in picked)


@given(backlogs(), st.integers(0, 30), rooms)
def test_order_of_each_tenant_at_each_site(backlog, room, rooms):
    """A tenant's jobs of one site go in their order."""
    picked = select_fairly(backlog, room, free_slots=rooms)
    for tenant, jobs in backlog.items():
        for site in {job.site for job in jobs}:
            here = [job for job in jobs if job.site == site]
            gone = [job for job in picked if (job.tenant, job.site) == (tenant, site)]
            assert gone == here[: len(gone)]


@given(backlogs(), st.integers(1, 4), st.integers(1, 3), st.data())
def test_nobody_starves(backlog, slots, limit, data):
    """While jobs end and a rival with an endless backlog goes on, every job is picked in the end."""
    waiting = {tenant: list(jobs) for tenant, jobs in backlog.items()}
    running: list[ReadyJob] = []
    number = 1000
    most_rounds = 60 + 10 * sum(len(jobs) for jobs in backlog.values())
    for _ in range(most_rounds):
        if not any(tenant != "rival" and jobs for tenant, jobs in waiting.items()):
            return
        rivals = waiting.setdefault("rival", [])
        while len(rivals) < 9:
            rivals.append(ready("rival", ("one", "two", "three")[number % 3], number))
            number += 1
        rooms = {site: limit - sum(job.site == site for job in running) for site in ("one", "two", "three")}
        held = InFlightCounts(
            Counter(job.tenant for job in running), Counter((job.tenant, job.site) for job in running)
        )
        for job in select_fairly(waiting, slots - len(running), in_flight=held, free_slots=rooms):
            waiting[job.tenant].remove(job)
            running.append(job)
        if running:
            running.pop(data.draw(st.integers(0, len(running) - 1)))
    raise AssertionError(f"still waiting: {[job.id for jobs in waiting.values() for job in jobs]}")


def test_window_is_short():
    """Few items lie before whoever comes next, unless they are drained fast."""
    assert window_size(0, 0) == 4
    assert window_size(2, 0) == 1
    assert window_size(20, 0.5) == 10
    assert window_size(20, 800.0) == 400
    assert window_size(20, 1e9) == 4096
