"""How many connections a download gets, and how they divide its bytes: rules without a network."""

from __future__ import annotations

import pytest

from reelhaul_fetcher.model.byte_ranges import MIN_RANGE_BYTES, RangeAllocator
from reelhaul_fetcher.model.connection_tuner import FAST_BYTES_PER_SECOND, ConnectionTuner

MB = 1_000_000


def simulate(most: int, speed: float, bandwidth: float = 1e12) -> list[int]:
    """Return the numbers of connections wanted, each change once, in ten seconds.

    One connection has *speed* bytes per second, all together at most *bandwidth*.
    """
    tuner, now, received, targets = ConnectionTuner(most, 0.0), 0.0, 0.0, [1]
    while now < 10.0:
        now += 0.1
        received += min(targets[-1] * speed, bandwidth) * 0.1
        target = tuner.update(now, int(received), 1000 * MB)
        if target != targets[-1]:
            targets.append(target)
    return targets


def test_fast_connection_stays_alone():
    """A connection that is fast enough gets no others."""
    assert simulate(8, FAST_BYTES_PER_SECOND * 1.1) == [1]


def test_slow_connections_become_more():
    """Slow connections become more, up to the limit."""
    assert simulate(8, 1 * MB) == [1, 4, 8]
    assert simulate(16, 1 * MB) == [1, 4, 8, 16]
    assert simulate(3, 1 * MB) == [1, 3]
    assert simulate(1, 1 * MB) == [1]


def test_step_without_gain_is_reverted():
    """If four connections are no faster than one, the download goes back to one for good."""
    assert simulate(8, 1 * MB, bandwidth=1 * MB) == [1, 4, 1]


def test_no_step_near_the_end():
    """No connection is added for the last second."""
    tuner = ConnectionTuner(8, 0.0)
    assert tuner.update(1.0, 1 * MB, MB // 2) == 1


@pytest.mark.parametrize(("permanent", "later"), [(True, 7), (False, 8)])
def test_refusal(permanent: bool, later: int):
    """A refusal takes one connection away, for some seconds or for good."""
    tuner = ConnectionTuner(8, 0.0, first=8)
    tuner.on_refusal(1.0, 0, 8, permanent=permanent)
    assert tuner.update(2.0, 8 * MB, 900 * MB) == 7
    assert tuner.update(7.0, 30 * MB, 900 * MB) == later


def test_ranges_are_halved():
    """A free connection takes the second half of the largest range; bytes count once."""
    ranges = RangeAllocator()
    first = ranges.take()
    assert first is not None
    assert ranges.take() is None
    first.stop = 8 * MIN_RANGE_BYTES
    second, third = ranges.take(), ranges.take()
    assert second is not None
    assert third is not None
    assert [(r.start, r.stop) for r in (first, third, second)] == [
        (0, 2 * MIN_RANGE_BYTES),
        (2 * MIN_RANGE_BYTES, 4 * MIN_RANGE_BYTES),
        (4 * MIN_RANGE_BYTES, 8 * MIN_RANGE_BYTES),
    ]
    ranges.advance(first, 3 * MIN_RANGE_BYTES)
    assert (first.left, ranges.received, ranges.left) == (0, 2 * MIN_RANGE_BYTES, 6 * MIN_RANGE_BYTES)


def test_released_range_is_taken_first():
    """A range that failed goes to the next free connection, and no byte is lost."""
    ranges = RangeAllocator()
    first = ranges.take()
    assert first is not None
    first.stop = 4 * MIN_RANGE_BYTES
    second = ranges.take()
    assert second is not None
    ranges.advance(second, 100)
    ranges.release(second)
    assert ranges.take() is second
    for byte_range in (first, second):
        ranges.advance(byte_range, byte_range.left)
        ranges.release(byte_range)
    assert ranges.complete
    assert ranges.received == 4 * MIN_RANGE_BYTES


@pytest.mark.parametrize(("advanced", "failures"), [(0, 2), (MIN_RANGE_BYTES, 1)])
def test_failures_without_progress_add_up(advanced: int, failures: int):
    """Failures are counted as long as next to nothing arrives between them."""
    ranges = RangeAllocator()
    byte_range = ranges.take()
    assert byte_range is not None
    byte_range.fail()
    ranges.advance(byte_range, advanced)
    assert byte_range.fail() == failures
