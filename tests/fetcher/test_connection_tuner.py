"""How many connections a file is worth, and how its bytes are shared out: rules without a network."""

from __future__ import annotations

import pytest

from reelhaul_fetcher.model.byte_ranges import MIN_RANGE_BYTES, RangeAllocator
from reelhaul_fetcher.model.connection_tuner import FAST_BYTES_PER_SECOND, ConnectionTuner

MB = 1_000_000


def _grown(most: int, speed_of_one: float, widest: float = 1e12, seconds: float = 10.0) -> list[int]:
    """How many connections were wanted, each new number once, on a way of at most *widest* bytes a second."""
    pace, now, received, seen = ConnectionTuner(most, 0.0), 0.0, 0.0, [1]
    while now < seconds:
        now += 0.1
        received += min(seen[-1] * speed_of_one, widest) * 0.1
        wanted = pace.update(now, int(received), 1000 * MB)
        if wanted != seen[-1]:
            seen.append(wanted)
    return seen


def test_one_is_enough_where_it_is_quick():
    """A connection that is quick stays alone."""
    assert _grown(8, FAST_BYTES_PER_SECOND * 1.1) == [1]


def test_more_where_one_is_slow():
    """Slow ones become more, up to what is allowed and not beyond."""
    assert _grown(8, 1 * MB) == [1, 4, 8]
    assert _grown(16, 1 * MB) == [1, 4, 8, 16]
    assert _grown(3, 1 * MB) == [1, 3]
    assert _grown(1, 1 * MB) == [1]


def test_not_more_than_what_helps():
    """Where four bring no more than one did, the others were for nothing, and none is tried again."""
    assert _grown(8, 1 * MB, widest=1 * MB) == [1, 4, 1]


def test_not_for_what_is_nearly_done():
    """The last second is not worth a connection."""
    pace = ConnectionTuner(8, 0.0)
    assert pace.update(1.0, 1 * MB, MB // 2) == 1


def test_fewer_where_a_site_refuses():
    """A refusal takes one away: for good, or until the site has had a rest."""
    for for_good, later in ((True, 7), (False, 8)):
        pace = ConnectionTuner(8, 0.0, first=8)
        pace.on_refusal(1.0, 0, 8, permanent=for_good)
        assert pace.update(2.0, 8 * MB, 900 * MB) == 7
        assert pace.update(7.0, 30 * MB, 900 * MB) == later


def test_spans_are_halved():
    """Who is free takes the second half of the largest; what is received counts once."""
    spans = RangeAllocator()
    first = spans.take()
    assert first is not None
    assert spans.take() is None
    first.stop = 8 * MIN_RANGE_BYTES
    second, third = spans.take(), spans.take()
    assert second is not None
    assert third is not None
    assert [(s.start, s.stop) for s in (first, third, second)] == [
        (0, 2 * MIN_RANGE_BYTES),
        (2 * MIN_RANGE_BYTES, 4 * MIN_RANGE_BYTES),
        (4 * MIN_RANGE_BYTES, 8 * MIN_RANGE_BYTES),
    ]
    spans.advance(first, 3 * MIN_RANGE_BYTES)
    assert (first.left, spans.received, spans.left) == (0, 2 * MIN_RANGE_BYTES, 6 * MIN_RANGE_BYTES)


def test_what_is_given_back_is_taken_first():
    """A piece that failed goes to whoever is free next; nothing is lost on the way."""
    spans = RangeAllocator()
    first = spans.take()
    assert first is not None
    first.stop = 4 * MIN_RANGE_BYTES
    second = spans.take()
    assert second is not None
    spans.advance(second, 100)
    spans.release(second)
    assert spans.take() is second
    for span in (first, second):
        spans.advance(span, span.left)
        spans.release(span)
    assert spans.complete
    assert spans.received == 4 * MIN_RANGE_BYTES


@pytest.mark.parametrize(("moved", "counted"), [(0, 2), (MIN_RANGE_BYTES, 1)])
def test_failures_count_where_nothing_moves(moved: int, counted: int):
    """A connection that is cut again and again fails in the end, but not while it gets on."""
    spans = RangeAllocator()
    span = spans.take()
    assert span is not None
    span.fail()
    spans.advance(span, moved)
    assert span.fail() == counted
