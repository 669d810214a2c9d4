"""The board: the jobs of a batch or of playlists, followed together until all have ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reelhaul._core.retries import Retries
from reelhaul.cli.display import Display
from reelhaul.cli.job_status import has_ended, status_name
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.rest import CallFailed, Client, is_playlist

# Between two polls, and in relation to how long a poll takes: a long list is polled less often.
_POLL_SECONDS, _SHARE = 1.0, 5
# How long the server may be away.
_RETRY_SECONDS = 120.0
_PAGE_SIZE = 500


@dataclass(slots=True)
class Board:
    """The jobs of one command, in the order of their creation."""

    by_id: dict[str, Download] = field(default_factory=dict)

    def update(self, jobs: Iterable[Download]) -> Iterator[Download]:
        """Take the present state of *jobs*; yield those whose status has changed."""
        for job in jobs:
            before = self.by_id.get(job.job_id)
            self.by_id[job.job_id] = job
            if before is None or before.status != job.status:
                yield job

    @property
    def items(self) -> list[Download]:
        """The jobs that download: all but the playlists themselves."""
        return [job for job in self.by_id.values() if not is_playlist(job)]

    @property
    def running(self) -> list[Download]:
        """The jobs that a worker runs now."""
        return [job for job in self.items if status_name(job) in ("RUNNING", "CANCELLING")]

    @property
    def is_complete(self) -> bool:
        """Whether all jobs are known: no playlist is being read any more."""
        return all(has_ended(job) for job in self.by_id.values() if is_playlist(job))

    @property
    def has_ended(self) -> bool:
        """Whether all jobs have ended."""
        return all(has_ended(job) for job in self.by_id.values())

    def count(self) -> Counter[str]:
        """Return the number of jobs by status."""
        return Counter(status_name(job) for job in self.items)

    def done(self) -> float:
        """Return how many jobs are done; one that runs counts as the part that is."""
        return sum(1 if has_ended(job) else job.progress_percent / 100 for job in self.items)

    def speed(self) -> float:
        """Return the bytes per second of all jobs together."""
        return sum(job.speed for job in self.running)


def follow_batches(
    client: Client, batches: Sequence[str], display: Display, on_end: Callable[[Download], object]
) -> Board:
    """Show the jobs of *batches*, by batch id, until all have ended; call *on_end* with each that ends.

    Raises CallFailed if the server does not answer for two minutes.
    """
    board, live, retries = Board(), list(batches), Retries(seconds=_RETRY_SECONDS)
    while True:
        start = time.monotonic()
        try:
            for batch in tuple(live):
                jobs = list(_list_batch(client, batch))
                for job in board.update(jobs):
                    display.job(job)
                    if has_ended(job):
                        on_end(job)
                if jobs and all(has_ended(job) for job in jobs):
                    live.remove(batch)
        except CallFailed as failure:
            delay = retries.next_delay(failure)
            display.say("reconnecting", "reconnecting")
        else:
            retries.reset()
            delay = max(_POLL_SECONDS, _SHARE * (time.monotonic() - start))
            display.board(board)
            if not live:
                return board
        time.sleep(delay)


def _list_batch(client: Client, batch: str) -> Iterator[Download]:
    token = ""
    while True:
        page = client.list(batch_id=batch, order="oldest", page_size=_PAGE_SIZE, page_token=token)
        yield from page.jobs
        if not (token := page.next_page_token):
            return
