"""Progress: the percentage is monotonic and absent if unknown; the watchdog detects stalled downloads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.model.progress import ProgressTracker, Watchdog


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_percent_by_weight() -> None:
    """Of two streams of 900 and 100 bytes, half of the first is 45 percent of the download."""
    reports: list[Progress] = []
    tracker = ProgressTracker(reports.append, Clock(), interval=-1)
    tracker.set_plan({"v": 900, "a": 100}, 1000)
    tracker.begin_stage(Progress.DOWNLOADING, "video v")
    tracker.update_part("v", 450)
    assert reports[-1].percent == 2 + 83 * 0.45
    assert (reports[-1].downloaded_bytes, reports[-1].total_bytes, reports[-1].detail) == (
        450,
        1000,
        "video v",
    )


def test_unknown_size_has_no_percent() -> None:
    """If one of several streams has no known size there are bytes and no percent."""
    reports: list[Progress] = []
    tracker = ProgressTracker(reports.append, Clock(), interval=-1)
    tracker.set_plan({"v": None, "a": 100}, None)
    tracker.begin_stage(Progress.DOWNLOADING)
    tracker.update_part("v", 450)
    assert not reports[-1].HasField("percent")
    assert not reports[-1].HasField("total_bytes")
    assert reports[-1].downloaded_bytes == 450


def test_report_interval() -> None:
    """A thousand fragments per second make at most five reports; a new stage is reported at once."""
    reports: list[Progress] = []
    clock = Clock()
    tracker = ProgressTracker(reports.append, clock)
    tracker.set_plan({"v": 1000}, 1000)
    for received in range(1000):
        clock.now = received / 1000
        tracker.update_part("v", received)
    assert len(reports) <= 5
    tracker.begin_stage(Progress.VERIFYING)
    assert reports[-1].stage == Progress.VERIFYING


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
def test_percent_is_monotonic_below_100(
    steps: list[tuple[str, float]], weights: dict[str, float | None]
) -> None:
    """Whatever happens in whatever order, the percentage never falls and never is 100."""
    reports: list[Progress] = []
    tracker = ProgressTracker(reports.append, Clock(), interval=-1)
    tracker.set_plan(weights, None)
    for step, value in steps:
        if step == "stage":
            tracker.begin_stage(int(value))  # type: ignore[arg-type]
        elif step == "receive":
            tracker.update_part("v", int(value))
        else:
            tracker.update_stage(value)
    percents = [progress.percent for progress in reports if progress.HasField("percent")]
    assert percents == sorted(percents)
    assert all(0 <= percent < 100 for percent in percents)


def test_watchdog_detects_trickle() -> None:
    """A byte per second is a stalled download; a slow steady one and post-processing are not."""
    trickle, steady, processing = (Watchdog(60, 0) for _ in range(3))
    stalled = [
        (
            trickle.is_stalled(now, Progress.DOWNLOADING, now),
            steady.is_stalled(now, Progress.DOWNLOADING, now * 5000),
            processing.is_stalled(now, Progress.POSTPROCESSING, 0),
        )
        for now in range(0, 90, 10)
    ]
    assert stalled[-1] == (True, False, False)
    assert not any(trickle for trickle, _, _ in stalled[:6])


def test_watchdog_ignores_sidecars() -> None:
    """Subtitles and thumbnails that do not come never fail the download; what follows is watched again."""
    watchdog = Watchdog(60, 0)
    assert not any(watchdog.is_stalled(now, Progress.FETCHING_EXTRAS, 0) for now in range(0, 200, 10))
    stalled = [watchdog.is_stalled(now, Progress.DOWNLOADING, 0) for now in range(200, 290, 10)]
    assert stalled.index(True) == 7
