"""The steps of post-processing."""

from __future__ import annotations

from collections.abc import Callable

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.selection import picture_warnings
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.postprocess.chapter_files import plan_chapters, split_chapters
from reelhaul_fetcher.ytdlp.postprocess.joined_media import join_streams
from reelhaul_fetcher.ytdlp.postprocess.media_file import find_missing_extras, mux_media_file
from reelhaul_fetcher.ytdlp.postprocess.mux_plan import choose_package, limit_cut, plan_mux
from reelhaul_fetcher.ytdlp.postprocess.plan import Output, OutputPlan
from reelhaul_fetcher.ytdlp.postprocess.verification import (
    check_play_time,
    find_differences,
    inspect_media_file,
    verify_media_file,
)


def postprocess(
    streams: list[ReceivedStream],
    plan: OutputPlan,
    tracker: ProgressTracker,
    on_media_file: Callable[[Product], None],
) -> Output:
    """Produce the files of *plan* from *streams*, video first, and verify them.

    *on_media_file* is called with the media file before it is verified.

    Raises CLIP_OUT_OF_RANGE, VERIFICATION_FAILED, FORMAT_UNAVAILABLE, MEDIA_TOO_LONG, FfmpegFailed.
    """
    tracker.begin_stage(Progress.POSTPROCESSING)
    media = join_streams(streams, plan, tracker.update_stage)
    plan, package = choose_package(plan, media)
    cut = limit_cut(plan, media.duration)
    plan = plan.with_subtitles_on_clock(media.start, media.duration)
    chapters = plan_chapters(plan, cut, media.duration)
    warnings = [*chapters.warnings, *check_play_time(media, plan)]

    mux_plan = plan_mux(plan, media, package, cut, chapters.embedded)
    media_file = mux_media_file(mux_plan, tracker.update_stage)
    warnings += find_missing_extras(mux_plan, media_file.plan)

    tracker.begin_stage(Progress.VERIFYING)
    product = media_file.to_product(plan.media.title)
    on_media_file(product)
    inspection = inspect_media_file(media_file)
    delivered = verify_media_file(media_file, inspection, plan)
    warnings += find_differences(media_file, inspection, plan)
    warnings += [*plan.warnings, *picture_warnings(delivered, plan.spec)]

    parts, split_warnings = split_chapters(media_file, chapters.media, plan, tracker)
    return Output([product, *parts], delivered, [*warnings, *split_warnings], plan.subtitles)
