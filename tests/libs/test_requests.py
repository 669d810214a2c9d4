"""Typed requests: they have the fields of the API, and a misspelt one is found before any call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor

from reelhaul.downloads.v1.download_service_pb2 import (
    CreateDownloadRequest,
    GetInfoRequest,
    ListDownloadsRequest,
)
from reelhaul.remedies import REMEDIES
from reelhaul.requests import DownloadRequest, ListOptions, ProbeOptions, build_request
from reelhaul.type.v1.error_reason_pb2 import ErrorReason

_EXAMPLES = Path(__file__).parents[2] / "examples"
_TYPES = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_INT64: int,
    FieldDescriptor.TYPE_DOUBLE: float,
}


def python_type(field: FieldDescriptor) -> object:
    """Return how *field* is annotated."""
    if field.message_type is not None:
        is_map = field.message_type.GetOptions().map_entry
        return Mapping[str, str] if is_map else datetime
    if field.enum_type is not None:
        return Sequence[str]
    return Sequence[str] if field.is_repeated else _TYPES[field.type]


@pytest.mark.parametrize(
    ("typed", "message", "extra"),
    [
        (DownloadRequest, CreateDownloadRequest, set()),
        (ListOptions, ListDownloadsRequest, set()),
        (ProbeOptions, GetInfoRequest, {"url"}),
    ],
)
def test_fields_are_those_of_the_api(typed, message, extra):
    """Every field of the message is in the dictionary, with its type."""
    expected = {
        field.name: python_type(field) for field in message.DESCRIPTOR.fields if field.name not in extra
    }
    assert get_type_hints(typed) == expected


def test_a_misspelt_field_is_an_error_of_mypy(tmp_path):
    """mypy reports each wrong field of a sample, and nothing in the right ones or in the examples."""
    sample = Path(__file__).with_name("typed_requests.py")
    examples = [_EXAMPLES / "bot.py", _EXAMPLES / "transcriber.py"]
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-incremental",
        "--cache-dir",
        tmp_path / "cache",
    ]
    command += ["--config-file", "/dev/null", "--follow-imports", "silent", sample, *examples]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    wrong = [n for n, line in enumerate(sample.read_text().splitlines(), 1) if line.endswith("# wrong")]
    errors = [line.split(":") for line in result.stdout.splitlines() if ": error:" in line]
    reported = {(Path(path).name, int(number)) for path, number, *_ in errors}
    assert reported == {(sample.name, number) for number in wrong}, result.stdout
    assert len(wrong) >= 4


def test_values_become_fields():
    """Texts, numbers, lists, labels and times of Python are those of the message."""
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    fields = {"url": "https://a.example/", "max_fps": 30, "labels": {"a": "b"}, "schedule_time": noon}
    request = build_request(CreateDownloadRequest, {**fields, "subtitle_formats": ["srt"], "quality": None})
    assert (request.url, request.max_fps, dict(request.labels)) == ("https://a.example/", 30, {"a": "b"})
    assert request.schedule_time.ToDatetime(UTC) == noon
    assert request.subtitle_formats == ["srt"]
    assert not request.quality
    listing = build_request(ListDownloadsRequest, {"status": ["FAILED"]})
    assert [
        type(listing).DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[n].name
        for n in listing.status
    ] == ["FAILED"]


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"qualty": "1080p"}, TypeError, "has no field qualty: did you mean quality"),
        ({"quality": 1080}, ValueError, "quality: "),
        ({"max_fps": "many"}, ValueError, "max_fps: "),
        ({"schedule_time": datetime(2030, 1, 1)}, ValueError, "has no time zone"),  # noqa: DTZ001
    ],
)
def test_wrong_fields_are_named(fields, error, text):
    """Without mypy, a wrong field is named when the request is built."""
    with pytest.raises(error, match=text):
        build_request(CreateDownloadRequest, {"url": "https://a.example/", **fields})


def test_every_reason_has_a_remedy():
    """For each reason of an error there is a sentence that says what to do."""
    assert set(REMEDIES) == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert all(text.endswith(".") and len(text) > 15 for text in REMEDIES.values())
