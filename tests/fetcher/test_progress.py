"""The percentage: monotonic, honest, and silent where nothing is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.model.progress import ProgressTracker, Watchdog


class Clock:
    """Time that passes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_weights_fixed_by_the_plan() -> None:
    """Two streams of 900 and 100 bytes: half of the first is 45 percent of the download."""
    told: list[Progress] = []
    gauge = ProgressTracker(told.append, Clock(), interval=-1)
    gauge.set_plan({"v": 900, "a": 100}, 1000)
    gauge.begin_stage(Progress.DOWNLOADING, "video v")
    gauge.update_part("v", 450)
    assert told[-1].percent == 2 + 83 * 0.45
    assert (told[-1].downloaded_bytes, told[-1].total_bytes, told[-1].detail) == (450, 1000, "video v")


def test_unknown_stays_unknown() -> None:
    """Without a weight for each of several streams there are bytes, and no percent."""
    told: list[Progress] = []
    gauge = ProgressTracker(told.append, Clock(), interval=-1)
    gauge.set_plan({"v": None, "a": 100}, None)
    gauge.begin_stage(Progress.DOWNLOADING)
    gauge.update_part("v", 450)
    assert not told[-1].HasField("percent")
    assert not told[-1].HasField("total_bytes")
    assert told[-1].downloaded_bytes == 450


def test_at_most_four_a_second() -> None:
    """Hundreds of fragments a second make four messages; a new stage is told at once."""
    told: list[Progress] = []
    clock = Clock()
    gauge = ProgressTracker(told.append, clock)
    gauge.set_plan({"v": 1000}, 1000)
    for received in range(1000):
        clock.now = received / 1000
        gauge.update_part("v", received)
    assert len(told) <= 5
    gauge.begin_stage(Progress.VERIFYING)
    assert told[-1].stage == Progress.VERIFYING


_STAGES = [Progress.PROBING, Progress.DOWNLOADING, Progress.POSTPROCESSING, Progress.VERIFYING]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("stage"), st.sampled_from(_STAGES)),
            st.tuples(st.just("receive"), st.integers(0, 2000)),
            st.tuples(st.just("advance"), st.floats(-1, 2)),
        )
    ),
    st.sampled_from([{"v": 900.0, "a": 100.0}, {"v": None, "a": None}, {"v": 1.0}]),
)
def test_never_falls_and_never_ends(steps: list[tuple[str, float]], weights: dict[str, float | None]) -> None:
    """Whatever happens in whatever order, percent does not fall and is not 100."""
    told: list[Progress] = []
    gauge = ProgressTracker(told.append, Clock(), interval=-1)
    gauge.set_plan(weights, None)
    for step, value in steps:
        if step == "stage":
            gauge.begin_stage(int(value))  # type: ignore[arg-type]
        elif step == "receive":
            gauge.update_part("v", int(value))
        else:
            gauge.update_stage(value)
    percents = [progress.percent for progress in told if progress.HasField("percent")]
    assert percents == sorted(percents)
    assert all(0 <= percent < 100 for percent in percents)


def test_the_watchdog_hears_a_drip() -> None:
    """A byte a second is no download; a slow but steady one is, and own work takes what it takes."""
    drip, steady, work = (Watchdog(60, 0) for _ in range(3))
    stalled = [
        (
            drip.is_stalled(now, Progress.DOWNLOADING, now),
            steady.is_stalled(now, Progress.DOWNLOADING, now * 5000),
            work.is_stalled(now, Progress.POSTPROCESSING, 0),
        )
        for now in range(0, 90, 10)
    ]
    assert stalled[-1] == (True, False, False)
    assert not any(drip for drip, _, _ in stalled[:6])
