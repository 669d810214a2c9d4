"""Classification of failures: rules without a network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from yt_dlp.utils import DownloadError, ExtractorError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media.ffmpeg import FfmpegFailed
from reelhaul_fetcher.model.http_values import parse_retry_after
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.ytdlp.downloader import ResponseLog
from reelhaul_fetcher.ytdlp.errors import classify
from reelhaul_fetcher.ytdlp.extract.extraction import NoStreamsError
from reelhaul_runtime.errors import ReelhaulError, from_status


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), ("Wed, 21 Oct 2026 07:28:30 GMT", 30), ("9999999", 86_400), ("-5", None), ("soon", None)],
)
def test_retry_after(header: str, seconds: int | None) -> None:
    """Retry-After is seconds or a date, at most a day; None if it cannot be parsed."""
    now = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert expected == parse_retry_after(header, now)


_URL = "http://a.example/watch/1"
_NO_FORMATS = ("No video formats found!", {"video_id": "1", "expected": False})


@pytest.mark.parametrize(
    ("error", "extractor", "reason", "text"),
    [
        # The page was read, but has nothing that plays.
        (
            ExtractorError(_NO_FORMATS[0], ie="generic", **_NO_FORMATS[1]),
            "",
            "FORMAT_UNAVAILABLE",
            "no format",
        ),
        (ExtractorError(_NO_FORMATS[0], ie="youtube", **_NO_FORMATS[1]), "", "EXTRACTOR_FAILED", "no format"),
        (
            NoStreamsError("no stream that plays was offered", "generic"),
            "",
            "FORMAT_UNAVAILABLE",
            "no format",
        ),
        (
            NoStreamsError("no stream that plays was offered", "vimeo"),
            "vimeo",
            "EXTRACTOR_FAILED",
            "no format",
        ),
        (DownloadError("Requested format is not available"), "generic", "FORMAT_UNAVAILABLE", "no format"),
        # The download failed: the page is not to blame, nor the engine's age.
        (
            DownloadError("Initialization fragment found after media fragments, unable to download"),
            "generic",
            "FORMAT_UNAVAILABLE",
            "cannot be downloaded",
        ),
        (
            DownloadError("The downloaded file is empty"),
            "vimeo",
            "FORMAT_UNAVAILABLE",
            "cannot be downloaded",
        ),
        (KeyError("fragments"), "vimeo", "EXTRACTOR_FAILED", "cannot be downloaded"),
        # The page could not be read.
        (ExtractorError("Unable to extract player", ie="vimeo"), "", "EXTRACTOR_FAILED", "could not read"),
        (KeyError("formats"), "", "EXTRACTOR_FAILED", "could not read"),
        # It was read once, and its addresses are renewed.
        (
            ExtractorError("Unable to extract player", ie="vimeo"),
            "vimeo",
            "EXTRACTOR_FAILED",
            "could not read",
        ),
    ],
)
def test_extraction_stage(error: Exception, extractor: str, reason: str, text: str) -> None:
    """A failure states whether the page was read; a newer engine is advised only if it was not."""
    failure = classify(error, ResponseLog(extractor=extractor), _URL)
    assert ErrorReason.Name(failure.reason) == reason
    assert text in failure.text
    assert ("newer version" in failure.text) == (text == "could not read")


_FOLDER = "/data/work/2f1c-1"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", f"{_FOLDER}/stream0.mp4"),
        PermissionError(13, "Permission denied", f"{_FOLDER}/a file with blanks.mp4"),
        DownloadError(f"unable to open for writing: [Errno 13] Permission denied: '{_FOLDER}/stream0.mp4'"),
        DownloadError(f"Unable to rename file {_FOLDER}/stream0.mp4.part to {_FOLDER}/stream0.mp4"),
        FfmpegFailed(f"Error opening attachment file:{_FOLDER}/thumbnail.jpg: Invalid data"),
        FfmpegFailed(f"{_FOLDER}/result.mp4: Invalid argument"),
        ReelhaulError(ErrorReason.VERIFICATION_FAILED, f"the file {_FOLDER}/result.mp4 is not media"),
        RuntimeError(f'File "{_FOLDER}/lib/python3.11/site-packages/yt_dlp/x.py", line 3'),
    ],
)
def test_no_path_of_the_server(error: Exception) -> None:
    """No message holds a folder of the server, whether the engine or the fetcher classifies the failure."""
    failure = classify(error, ResponseLog(extractor="generic"), _URL)
    assert "/data" not in failure.text
    assert _FOLDER.rpartition("/")[2] not in failure.text
    outcome = outcomes.failed(
        ReelhaulError(ErrorReason.POSTPROCESSING_FAILED, str(error)), "jobs/1", "worker"
    )
    assert "/data" not in from_status(outcome.failed.status).text
