"""The broker and the fetchers of the simulation: items in memory, downloads as due times of a fake clock."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush

from tests.jobs.fake_bus import FakeBus

from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.nats.bus import WORK_STREAM

_PRIORITIES = (Priority.HIGH, Priority.NORMAL, Priority.LOW)
# As the fetcher pulls: every eighth pull of a worker begins with the lowest priority.
_LOW_SHARE = 8


class Broker(FakeBus):
    """A JobBus with a first-in, first-out queue per priority and the size of the real work stream."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[Priority, deque[ReadyJob]] = {priority: deque() for priority in _PRIORITIES}
        #: Delivered and not acknowledged: the stream holds them as well.
        self.unacknowledged = 0
        #: All items in the order of their publication.
        self.published: list[ReadyJob] = []
        #: Items that did not fit into the stream.
        self.refused = 0

    @property
    def depth(self) -> int:
        """Items that no fetcher has taken."""
        return sum(len(queue) for queue in self.waiting.values())

    async def publish(self, jobs: Sequence[ReadyJob], now: datetime) -> Sequence[ReadyJob]:
        assert WORK_STREAM.max_msgs
        room = max(0, WORK_STREAM.max_msgs - self.depth - self.unacknowledged)
        self.refused += max(0, len(jobs) - room)
        for job in jobs[:room]:
            self.waiting[job.priority].append(job)
        self.published += jobs[:room]
        return jobs[:room]

    async def count_work_items(self) -> int:
        return self.depth + self.unacknowledged

    async def notify_changed(self, job: Job) -> None:
        """Do nothing: there is one replica."""

    def pull(self, *, low_first: bool) -> ReadyJob | None:
        """Deliver the next item, if there is one."""
        order = (_PRIORITIES[-1], *_PRIORITIES[:-1]) if low_first else _PRIORITIES
        for priority in order:
            if self.waiting[priority]:
                self.unacknowledged += 1
                return self.waiting[priority].popleft()
        return None


@dataclass(slots=True)
class Fetcher:
    """A fetcher with its slots."""

    name: str
    free_slots: int
    pulls: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


@dataclass(frozen=True, slots=True, order=True)
class Download:
    """A download that ends at a time."""

    end: datetime
    number: int
    job: Job = field(compare=False)
    fetcher: Fetcher = field(compare=False)


class Fleet:
    """Fetchers whose free slots pull items in the order in which they became free."""

    def __init__(self, fetchers: int, slots: int) -> None:
        self.fetchers = [Fetcher(f"fetcher-{number:04}", slots) for number in range(fetchers)]
        self.slots_per_fetcher = slots
        # One entry for each free slot.
        self._free = deque(fetcher for _ in range(slots) for fetcher in self.fetchers)
        self._running: list[Download] = []
        self._numbers = itertools.count()

    @property
    def busy(self) -> int:
        """Slots in use."""
        return len(self._running)

    @property
    def running(self) -> list[Download]:
        """The downloads that run."""
        return list(self._running)

    def pull(self, broker: Broker) -> list[tuple[Fetcher, ReadyJob]]:
        """Return the items that the free slots take."""
        taken = []
        while self._free:
            fetcher = self._free[0]
            item = broker.pull(low_first=next(fetcher.pulls) % _LOW_SHARE == 0)
            if item is None:
                break
            taken.append((self._free.popleft(), item))
        return taken

    def start(self, fetcher: Fetcher, job: Job, end: datetime) -> None:
        """Occupy a slot of *fetcher*, which pulled *job*, until *end*."""
        heappush(self._running, Download(end, next(self._numbers), job, fetcher))

    def release(self, fetcher: Fetcher) -> None:
        """Free a slot of *fetcher*."""
        self._free.append(fetcher)

    def list_ended(self, now: datetime) -> list[Download]:
        """Return the downloads that have ended, and forget them."""
        ended = []
        while self._running and self._running[0].end <= now:
            ended.append(heappop(self._running))
        return ended
