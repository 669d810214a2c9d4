"""The options of the command line: what they accept, and the requests that they become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from click.testing import CliRunner

from reelhaul.cli.job_template import WordUnknown, build_template
from reelhaul.cli.parameters import Bytes, Position, Seconds, Time
from reelhaul.cli.request import build_request, request_options
from reelhaul.downloads.v1.download_service_pb2 import CreateDownloadRequest
from reelhaul_jobs.api.downloads.requests import create_request

# Set by other means than an option of their name.
_OTHER_FIELDS = {"url", "subtitles", "request_id", "validate_only"}


def parse(*arguments: str) -> dict[str, Any]:
    """Return the request that the options in *arguments* become."""
    parsed: dict[str, Any] = {}

    @click.command()
    @request_options
    def command(**options: Any) -> None:
        parsed.update(build_request(options))

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return parsed


def test_every_field_of_a_request_has_an_option():
    """What the API can do, the command line can do."""
    names = {parameter.name for parameter in click.Command("", params=_parameters()).params}
    assert set(CreateDownloadRequest.DESCRIPTOR.fields_by_name) - _OTHER_FIELDS == names


def _parameters() -> list[click.Parameter]:
    @click.command()
    @request_options
    def command(**options: Any) -> None:
        """Do nothing."""

    return command.params


def test_request():
    """Options become the fields of a request; those that are not given are left out."""
    assert parse("-q", "720p", "-s", "en", "-s", "de", "--max-size", "1.5G", "--max-duration", "90m") == {
        "quality": "720p",
        "subtitle_languages": ("en", "de"),
        "max_size_bytes": 1_500_000_000,
        "max_duration_seconds": 5400,
    }
    request = parse("--start", "1:02:03.5", "--end", "4000", "--label", "a=b=c", "--keep", "7d")
    assert (request["start_seconds"], request["end_seconds"]) == (3723.5, 4000)
    assert (request["labels"], request["ttl_seconds"]) == ({"a": "b=c"}, 7 * 86_400)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("700MiB", 700 * 2**20), ("2k", 2000), ("1 GB", 10**9), ("1.5kib", 1536)]
)
def test_sizes(text, size):
    """Sizes have decimal or binary units."""
    assert Bytes().convert(text, None, None) == size


@pytest.mark.parametrize(
    ("kind", "text", "advice"),
    [
        (Bytes(), "many", "500M"),
        (Bytes(), "-1", "500M"),
        (Seconds(), "1y", "90d"),
        (Position(), "1:2:3:4", "1:30"),
        (Time(), "yesterday", "ago"),
        (Time(future=True), "soon", "from now"),
        (Time(), "9999999999-01-01", "ago"),
    ],
)
def test_what_is_not_understood_is_refused_with_an_example(kind, text, advice):
    """An invalid value is an error that shows a valid one."""
    with pytest.raises(click.BadParameter, match=advice):
        kind.convert(text, None, None)


def test_times():
    """A duration is counted from now, into the past or the future; a time without an offset is local."""
    now = datetime.now(UTC)
    assert abs(Time().convert("12h", None, None) - (now - timedelta(hours=12))) < timedelta(minutes=1)
    assert abs(Time(future=True).convert("2d", None, None) - (now + timedelta(days=2))) < timedelta(minutes=1)
    assert Time().convert("2026-01-02T03:04:05+01:00", None, None) == datetime(
        2026, 1, 2, 2, 4, 5, tzinfo=UTC
    )
    local = datetime(2026, 1, 2, 3, 4).astimezone()
    assert Time().convert("2026-01-02T03:04", None, None) == local


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "-q 1080p -f mp4 --min-quality 720p --video-codec av1 --max-fps 30 --hdr prefer",
        "-q worst --min-quality best",
        "-f mp3 --audio-bitrate 128 --audio-language de",
        "-x",
        "-s en -s de --subtitle-format srt --subtitle-format txt --subtitle-kinds manual --translate-to fr",
        "--embed-subtitles --require-subtitles -s original",
        "--subtitles-only",
        "--thumbnail --info-json --chapters split --cookies main",
        "--sponsorblock remove --sponsorblock-category intro",
        "--start 1.5 --end 1:00",
        "--live wait --max-duration 2h --max-size 2G",
        "--playlist --max-entries 7 --priority low --label a=b --keep 3d --deliver-to media",
    ],
)
def test_template_of_a_schedule(arguments):
    """The template of a schedule is the job that a download with the same options creates."""
    request = {"url": "https://a.example/v", **parse(*arguments.split())}
    assert build_template(request) == create_request(CreateDownloadRequest(**request)).job


@pytest.mark.parametrize("option", ["--quality", "--format", "--hdr", "--live", "--priority", "--chapters"])
def test_unknown_word_in_a_template(option):
    """A word that no option takes is an error that lists those it takes."""
    request = {"url": "https://a.example/v", **parse(option, "nonsense")}
    with pytest.raises(WordUnknown, match=f"{option[2:]}: 'nonsense' is none of [a-z0-9]"):
        build_template(request)
