"""OpenAPI documents of any service: what fields, paths, streams and bodies become."""

from __future__ import annotations

from importlib.resources import files

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.libs import lab
from tests.libs.lab import EchoUpstream

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.openapi.comments import read_comments, split_summary, to_markdown
from reelhaul_transcoding.openapi.document import build_openapi
from reelhaul_transcoding.openapi.options import DocumentOptions, ErrorCase
from reelhaul_transcoding.options import Options

_INFO = {"title": "Lab", "version": "1"}


def _build(options: Options | None = None, **document):
    transcoder = Transcoder([(lab.service(), EchoUpstream())], options)
    built = build_openapi(transcoder, DocumentOptions(info=_INFO, **document))
    OpenAPIV31SpecValidator(built).validate()
    return built


@pytest.fixture(scope="module")
def lab_document():
    return _build()


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("s", {"type": "string"}),
        ("i32", {"type": "integer", "format": "int32"}),
        ("i64", {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}),
        ("u32", {"type": "integer", "format": "uint32", "minimum": 0}),
        ("u64", {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}),
        ("b", {"type": "boolean"}),
        ("f", {"type": "number", "format": "float"}),
        ("d", {"type": "number", "format": "double"}),
        ("by", {"type": "string", "format": "byte", "contentEncoding": "base64"}),
        ("color", {"$ref": "#/components/schemas/Color"}),
        ("rs", {"type": "array", "items": {"type": "string"}}),
        ("rsub", {"type": "array", "items": {"$ref": "#/components/schemas/Sub"}}),
        ("mask", {"type": "string", "format": "google-fieldmask"}),
        ("wB", {"type": "boolean"}),
        ("mi", {"type": "object", "additionalProperties": {"type": "integer", "format": "int32"}}),
        ("st", {"type": "object", "additionalProperties": True}),
        ("val", {}),
        ("cusTom", {"type": "string"}),
    ],
)
def test_fields(lab_document, field, expected) -> None:
    """Each type has the schema of its proto3 JSON, under its JSON name."""
    assert lab_document["components"]["schemas"]["All"]["properties"][field] == expected


def test_times_are_documented_with_an_example(lab_document) -> None:
    """Timestamps and durations have a format and an example."""
    properties = lab_document["components"]["schemas"]["All"]["properties"]
    assert (properties["ts"]["format"], properties["dur"]["format"]) == ("date-time", "google-duration")
    assert properties["ts"]["examples"]
    assert properties["dur"]["examples"]


def test_oneof_and_enum(lab_document) -> None:
    """A oneof is described; an enum is its names, without the one that stands for an absent value."""
    schemas = lab_document["components"]["schemas"]
    assert "At most one of `oS`, `oI`, `oSub` is set." in schemas["All"]["description"]
    assert schemas["Color"]["enum"] == ["RED", "GREEN"]


def test_query_parameters_are_those_of_the_binder(lab_document) -> None:
    """Scalars by name, messages by dots, maps by keys, Struct as JSON; not what text cannot express."""
    parameters = {each["name"]: each for each in lab_document["paths"]["/v1/subs"]["get"]["parameters"]}
    assert {"i32", "rs", "sub.name", "sub.id", "m", "ts", "wS", "st"} <= parameters.keys()
    assert parameters["m"]["style"] == "deepObject"
    assert "application/json" in parameters["st"]["content"]
    # Messages in lists, Any, and a message inside itself.
    assert not {"rsub", "any", "lv", "sub.child.name"} & parameters.keys()


def test_streams_and_raw_bodies(lab_document) -> None:
    """A server stream has its media types; HttpBody is any media type; a client stream is lines."""
    watch = lab_document["paths"]["/v1/watch/{i}"]["get"]["responses"]
    assert watch["200"]["content"].keys() == {"application/x-ndjson", "text/event-stream"}
    assert "204" in watch
    raw = lab_document["paths"]["/v1/raw"]["post"]
    assert raw["requestBody"]["content"].keys() == raw["responses"]["200"]["content"].keys() == {"*/*"}
    total = lab_document["paths"]["/v1/sum"]["post"]["requestBody"]["content"]
    assert "application/x-ndjson" in total
    arrays = _build(Options(json_arrays=True))["paths"]["/v1/watch/{i}"]["get"]["responses"]
    assert arrays["200"]["content"]["application/json"]["schema"]["type"] == "array"


def test_bodies(lab_document) -> None:
    """A body field is its schema; in a PATCH nothing is required; a path's field is not in the body."""
    subs = lab_document["paths"]["/v1/subs/{s}"]
    assert subs["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Sub"
    }
    assert subs["patch"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/SubUpdate"
    }
    all_path = lab_document["paths"]["/v1/all/{s}"]["post"]["requestBody"]["content"]["application/json"]
    name = all_path["schema"]["$ref"].rpartition("/")[2]
    assert "s" not in lab_document["components"]["schemas"][name]["properties"]


def test_options_of_the_host() -> None:
    """Errors by status, notes, security, headers and strictness are in the document."""
    built = _build(
        Options(ignore_unknown_fields=False, header_fields={"idempotency-key": "s"}),
        errors=lambda method: [ErrorCase(409, "TAKEN", "It exists."), ErrorCase(409, "BUSY", "Later.")],
        note=lambda method: f"Note on {method.name}.",
        security_schemes={"key": {"type": "apiKey", "in": "header", "name": "X-Key"}},
        security=lambda method: [{"key": []}],
        comments={
            "lab.v1.Lab": "A lab.",
            "lab.v1.Lab.GetFoo": "Gets it. Then more.",
            "lab.v1.Sub.id": "Its id.",
        },
    )
    operation = built["paths"]["/foo"]["get"]
    assert operation["summary"] == "Gets it"
    assert operation["description"] == "Then more.\n\nNote on GetFoo."
    assert operation["security"] == [{"key": []}]
    shared = built["components"]["responses"]["Error409"]["description"]
    assert "- `TAKEN`: It exists.\n- `BUSY`: Later." in shared
    assert built["tags"] == [{"name": "Lab", "description": "A lab."}]
    assert built["components"]["schemas"]["Sub"]["properties"]["id"]["description"] == "Its id."
    headers = [
        each for each in built["paths"]["/v1/subs/{s}"]["post"]["parameters"] if each["in"] == "header"
    ]
    assert [each["name"] for each in headers] == ["Idempotency-Key"]


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (" One line\n goes on.\n\n Second.\n", "One line goes on.\n\nSecond."),
        (" page_size is `page_size`, job_id.\n", "`pageSize` is `page_size`, `job_id`."),
        (" jobs/{job_id} and ?page_size=1, <b> * x\n", "jobs/{job_id} and ?page_size=1, \\<b> \\* x"),
        (" Kinds:\n - one\n   goes on\n - two\n", "Kinds:\n- one goes on\n- two"),
    ],
)
def test_comments_become_markdown(comment, expected) -> None:
    """Lines are joined, lists kept, field names are those of JSON, and nothing becomes markup by accident."""
    assert to_markdown(comment, {"page_size": "pageSize"}) == expected


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("Returns a job.", ("Returns a job", "")),
        ("Returns a job. Fast.\n\nMore.", ("Returns a job", "Fast.\n\nMore.")),
        ("Cancels it: at once, or soon. More.", ("Cancels it", "Cancels it: at once, or soon. More.")),
        ("Takes e.g. a name. More.", ("Takes e.g. a name", "More.")),
    ],
)
def test_summaries(markdown, expected) -> None:
    """A summary is the first sentence or clause."""
    assert split_summary(markdown) == expected


def test_comments_are_read_from_a_descriptor_set() -> None:
    """Comments of services, methods, messages, fields, oneofs, enums and values are found by their names."""
    comments = read_comments(files("reelhaul").joinpath("protos.binpb").read_bytes())
    for name, text in {
        "downloads.v1.DownloadService": "DownloadService is",
        "downloads.v1.DownloadService.GetDownload": "Returns the current status",
        "downloads.v1.Download": "Download is a job",
        "downloads.v1.Download.job_id": "The job's id",
        "downloads.v1.Download.Status": "Status of a download",
        "downloads.v1.Download.Status.QUEUED": "Admitted",
        "downloads.v1.GetInfoResponse.Chapter.title": "Title.",
        "downloads.v1.WatchProgressResponse.event": "What happened",
    }.items():
        assert comments[f"reelhaul.{name}"].strip().startswith(text), name
    assert read_comments(b"") == {}
