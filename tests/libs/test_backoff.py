"""Back-off: delays that double, up to the longest, with jitter."""

from __future__ import annotations

from datetime import timedelta

from reelhaul.backoff import Backoff, exponential_delay


def test_delays_double_up_to_the_longest():
    """Each delay is twice the one before, never above the longest; a reset begins again."""
    backoff = Backoff(first=0.5, longest=3.0)
    assert [backoff.next_delay() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next_delay() == 0.5


def test_jitter_shortens_delays():
    """With jitter a delay is shortened by up to that share, and two are not the same."""
    delays = [Backoff(first=1.0, jitter=0.5).next_delay() for _ in range(100)]
    assert all(0.5 <= delay <= 1.0 for delay in delays)
    assert len(set(delays)) > 1


def test_many_tries():
    """A delay after any number of tries is the longest, of timedeltas too."""
    assert exponential_delay(10_000, 0.2, 5.0) == 5.0
    longest = timedelta(hours=1)
    assert exponential_delay(10_000, timedelta(seconds=5), longest) == longest
