"""Which jobs are published next, whatever the backlog looks like."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from reelhaul_jobs.model.fair_scheduling import (
    FairOrder,
    InFlightCounts,
    ReadyJob,
    ServiceHistory,
    select_fairly,
    window_size,
)
from reelhaul_jobs.model.rate_limit import UNLIMITED
from reelhaul_jobs.model.states import Priority

START = datetime(2030, 1, 1, tzinfo=UTC)

tenants = st.sampled_from("abcd")
sites = st.sampled_from(["one", "two", "three"])
site_slots = st.dictionaries(sites, st.integers(0, 6))


def ready(tenant: str, site: str, number: int) -> ReadyJob:
    due = START + timedelta(seconds=number)
    return ReadyJob(f"{tenant}{number:04}", 1, tenant, Priority.NORMAL, "", site, due)


@st.composite
def backlogs(draw: st.DrawFn) -> dict[str, list[ReadyJob]]:
    """Draw each tenant's jobs in order."""
    backlog: dict[str, list[ReadyJob]] = defaultdict(list)
    for number, (tenant, site) in enumerate(draw(st.lists(st.tuples(tenants, sites), max_size=40))):
        backlog[tenant].append(ready(tenant, site, number))
    return dict(backlog)


def test_tenant_with_the_fewest_jobs_is_next():
    """Each job is of the tenant with the fewest jobs in flight."""
    backlog = {tenant: [ready(tenant, "one", n) for n in range(3)] for tenant in "abc"}
    selected = select_fairly(backlog, 6, in_flight=InFlightCounts({"a": 2, "b": 1}))
    assert [job.id for job in selected] == ["c0000", "b0000", "c0001", "a0000", "b0001", "c0002"]
    assert len(select_fairly(backlog, 100)) == 9
    assert select_fairly(backlog, 0) == select_fairly({}, 5) == []


def test_weights():
    """A tenant of weight 3 gets three jobs for each of another."""
    backlog = {tenant: [ready(tenant, "one", n) for n in range(40)] for tenant in "ab"}
    selected = Counter(job.tenant for job in select_fairly(backlog, 40, weights={"a": 3.0}))
    assert dict(selected) == {"a": 30, "b": 10}


def test_full_site_blocks_no_other():
    """Behind a thousand jobs of a full site, the job of another site is selected all the same."""
    backlog = {"a": [ready("a", "one", n) for n in range(1000)] + [ready("a", "two", 1000)]}
    assert [job.id for job in select_fairly(backlog, 5, free_slots={"one": 0})] == ["a1000"]


def test_slots_of_a_site_go_by_age():
    """A tenant with many jobs elsewhere gets the one slot of a site if its job is older."""
    backlog = {"a": [ready("a", "one", 0)], "b": [ready("b", "one", 1)]}
    in_flight = InFlightCounts({"a": 10, "b": 0}, {("a", "two"): 10})
    selected = select_fairly(backlog, 5, in_flight=in_flight, free_slots={"one": 1})
    assert [job.id for job in selected] == ["a0000"]


@given(backlogs(), st.integers(0, 30), site_slots)
def test_limits_hold(backlog, count, free_slots):
    """Never more jobs than asked, never more of a site than it has free slots, none twice."""
    selected = select_fairly(backlog, count, free_slots=free_slots)
    assert len(selected) <= count
    assert len({job.id for job in selected}) == len(selected)
    for site, number in Counter(job.site for job in selected).items():
        assert number <= free_slots.get(site, UNLIMITED)


@given(backlogs(), st.integers(0, 30), site_slots)
def test_work_conserving(backlog, count, free_slots):
    """Every slot that can be filled is filled: no full site and no tenant blocks another."""
    waiting = Counter(job.site for jobs in backlog.values() for job in jobs)
    possible = sum(min(number, free_slots.get(site, UNLIMITED)) for site, number in waiting.items())
    assert len(select_fairly(backlog, count, free_slots=free_slots)) == min(count, possible)


@given(backlogs(), st.integers(0, 30), st.dictionaries(tenants, st.integers(0, 5)))
def test_fair_within_one_job(backlog, count, by_tenant):
    """No tenant that still waits has fewer jobs, by more than one, than a tenant that was selected."""
    selected = Counter(
        job.tenant for job in select_fairly(backlog, count, in_flight=InFlightCounts(by_tenant))
    )
    totals = {tenant: by_tenant.get(tenant, 0) + selected[tenant] for tenant in backlog}
    for waiting, jobs in backlog.items():
        if selected[waiting] < len(jobs):
            assert all(totals[tenant] <= totals[waiting] + 1 for tenant in selected)


@given(backlogs(), st.integers(0, 30), site_slots)
def test_order_of_each_tenant_at_each_site(backlog, count, free_slots):
    """A tenant's jobs of one site are selected in order."""
    selected = select_fairly(backlog, count, free_slots=free_slots)
    for tenant, jobs in backlog.items():
        for site in {job.site for job in jobs}:
            in_order = [job for job in jobs if job.site == site]
            of_site = [job for job in selected if (job.tenant, job.site) == (tenant, site)]
            assert of_site == in_order[: len(of_site)]


@given(backlogs(), st.integers(1, 4), st.integers(1, 3), st.data())
def test_no_starvation(backlog, slots, limit, data):
    """While jobs end and a rival has an endless backlog, every job is selected in the end."""
    waiting = {tenant: list(jobs) for tenant, jobs in backlog.items()}
    running: list[ReadyJob] = []
    number = 1000
    max_rounds = 60 + 10 * sum(len(jobs) for jobs in backlog.values())
    for _ in range(max_rounds):
        if not any(tenant != "rival" and jobs for tenant, jobs in waiting.items()):
            return
        rivals = waiting.setdefault("rival", [])
        while len(rivals) < 9:
            rivals.append(ready("rival", ("one", "two", "three")[number % 3], number))
            number += 1
        free_slots = {
            site: limit - sum(job.site == site for job in running) for site in ("one", "two", "three")
        }
        in_flight = InFlightCounts(
            Counter(job.tenant for job in running), Counter((job.tenant, job.site) for job in running)
        )
        count = slots - len(running)
        for job in select_fairly(waiting, count, in_flight=in_flight, free_slots=free_slots):
            waiting[job.tenant].remove(job)
            running.append(job)
        if running:
            running.pop(data.draw(st.integers(0, len(running) - 1)))
    raise AssertionError(f"still waiting: {[job.id for jobs in waiting.values() for job in jobs]}")


@given(st.lists(st.integers(1, 4), min_size=3, max_size=9), st.integers(0, 99))
@settings(max_examples=25)
def test_more_tenants_than_slots(weights_of_tenants, seed):
    """However few the slots are, tenants with endless backlogs start jobs in proportion to their weights."""
    slots = len(weights_of_tenants) // 3
    weights = {f"t{number:02}": float(weight) for number, weight in enumerate(weights_of_tenants)}
    backlog = {tenant: [ready(tenant, "one", number) for number in range(slots)] for tenant in weights}
    history, running, started, random = ServiceHistory(), list[ReadyJob](), Counter[str](), Random(seed)
    for _ in range(5 * sum(weights_of_tenants)):
        in_flight = InFlightCounts(Counter(job.tenant for job in running))
        selected = select_fairly(
            backlog, slots - len(running), in_flight=in_flight, weights=weights, history=history
        )
        history.record(backlog, selected, weights)
        started.update(job.tenant for job in selected)
        running += selected
        running.pop(random.randrange(len(running)))
    shares = [started[tenant] / weight for tenant, weight in weights.items()]
    assert max(shares) - min(shares) <= 2, shares


@given(backlogs(), st.integers(0, 30), st.dictionaries(tenants, st.integers(0, 5)))
def test_few_tenants_read_at_a_time(backlog, count, by_tenant):
    """No tenant has more than one job more or less if each step reads one tenant instead of all."""
    weights, history, selected = {"a": 3.0, "b": 0.5}, ServiceHistory(), list[ReadyJob]()
    for _ in range(50 * (1 + len(backlog))):
        in_flight = InFlightCounts(Counter(by_tenant) + Counter(job.tenant for job in selected))
        waiting = {
            tenant: left
            for tenant, jobs in backlog.items()
            if (left := [job for job in jobs if job not in selected])
        }
        if not waiting or len(selected) == count:
            break
        order = FairOrder.of(waiting, in_flight, weights, history)
        first, *unread = sorted(waiting, key=order.rank)
        jobs = select_fairly(
            {first: waiting[first]},
            count - len(selected),
            in_flight=in_flight,
            weights=weights,
            history=history,
            unread=unread,
        )
        assert jobs
        history.record({first: waiting[first]}, jobs, weights, unread=unread)
        selected += jobs
    at_once = select_fairly(backlog, count, in_flight=InFlightCounts(by_tenant), weights=weights)
    assert len(selected) == len(at_once)
    one_by_one, together = (Counter(job.tenant for job in jobs) for jobs in (selected, at_once))
    assert all(abs(one_by_one[tenant] - together[tenant]) <= 1 for tenant in backlog)


def test_newcomer_gets_no_credit():
    """A tenant that had no jobs for long is served in turn at once: it catches up on nothing."""
    history, selected = ServiceHistory(), list[str]()
    backlog = {tenant: [ready(tenant, "one", number) for number in range(9)] for tenant in "ab"}
    for number in range(40):
        if number == 30:
            backlog["new"] = [ready("new", "one", number) for number in range(9)]
        jobs = select_fairly(backlog, 1, history=history)
        history.record(backlog, jobs, {})
        selected += [job.tenant for job in jobs]
    assert set(selected[30:33]) == {"a", "b", "new"}
    assert Counter(selected[30:39]) == {"a": 3, "b": 3, "new": 3}


def test_window_is_short():
    """Few items are published ahead of the next job, unless workers claim them fast."""
    assert window_size(0, 0) == 4
    assert window_size(2, 0) == 1
    assert window_size(20, 0.5) == 10
    assert window_size(20, 800.0) == 400
    assert window_size(20, 1e9) == 4096
