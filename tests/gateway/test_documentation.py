"""The OpenAPI document and its page, over HTTP."""

from __future__ import annotations

import json
import re

import openapi_spec_validator
import pytest
import referencing
import yaml
from jsonschema import Draft202012Validator
from referencing.jsonschema import DRAFT202012
from tests.gateway import document

from reelhaul_gateway.transcoding import list_routes

_UNSAFE_METHODS = {"post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def openapi():
    return document.build()


def operations(openapi):
    return {
        (method, path): operation
        for path, item in openapi["paths"].items()
        for method, operation in item.items()
    }


def test_document_is_valid(openapi):
    """The document is OpenAPI 3.1."""
    assert openapi["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(openapi, cls=openapi_spec_validator.OpenAPIV31SpecValidator)


def test_committed_document_is_fresh(openapi):
    """docs/openapi.json is the document that the gateway serves."""
    assert document.COMMITTED.read_text() == document.to_text(openapi), "run `make protos`"


def test_every_route_is_documented(openapi):
    """Each route is an operation with its own id, a summary, a tag, and a description of each parameter."""
    documented = operations(openapi)
    shapes = {(method.upper(), re.sub(r"\{[^}]+\}", "*", path)) for method, path in documented}
    routes = [route.split(" ")[:2] for route in list_routes()]
    assert {
        (method, re.sub(r"\{[^}]*=([^}]*)\}|\{[^}]*\}", lambda v: v[1] or "*", path))
        for method, path in routes
    } <= shapes
    ids = [operation["operationId"] for operation in documented.values()]
    assert len(ids) == len(set(ids))
    for operation in documented.values():
        assert operation["summary"]
        assert operation["tags"]
        assert [each["name"] for each in operation.get("parameters", []) if not each.get("description")] == []


def test_every_error_is_documented(openapi):
    """With a credential there are 401 and 403, with a resource 404, with a body 413 and 415."""
    for (_, path), operation in operations(openapi).items():
        expected = {"401", "403", "429"} if operation["security"] else set()
        expected |= {"404"} if "{" in path else set()
        expected |= {"413", "415"} if "requestBody" in operation else set()
        assert expected <= operation["responses"].keys(), path


def test_rate_limits_are_documented(openapi):
    """Responses to a key, and each 429, list the headers that state rate limits; a 429 also Retry-After."""

    def headers(response):
        name = response.get("$ref", "").rpartition("/")[2]
        return (openapi["components"]["responses"][name] if name else response).get("headers", {}).keys()

    state = {"RateLimit", "RateLimit-Policy"}
    for (_, path), operation in operations(openapi).items():
        answers = {status: headers(response) for status, response in operation["responses"].items()}
        assert state | {"Retry-After"} <= answers.get("429", state | {"Retry-After"}), path
        if operation["security"]:
            assert [status for status in answers if status < "3" and not state <= answers[status]] == [], path


@pytest.mark.parametrize(
    ("schema", "field", "expected"),
    [
        ("CreateDownloadRequest", "max_fps", {"minimum": 0, "maximum": 240}),
        ("CreateDownloadRequest", "hdr", {"enum": ["prefer", "require", "avoid"]}),
        ("CreateDownloadRequest", "quality", {"enum": lambda words: words[-1] == "worst"}),
        ("CreateDownloadRequest", "min_quality", {"enum": lambda words: words[-1] == "144p"}),
        ("CreateDownloadRequest", "audio_language", {"enum": None}),
        ("CancelJobRequest", "reason", {"maxLength": 500}),
        ("Download", "progress_percent", {"minimum": 0, "maximum": 100}),
        ("Download", "priority", {"enum": None}),
        ("Job", "state", {"readOnly": True}),
        ("Job", "labels", {"readOnly": None}),
    ],
)
def test_bounds(openapi, schema, field, expected):
    """Bounds and words in comments are keywords of the schema; a word in a sentence is not."""
    found = openapi["components"]["schemas"][schema]["properties"][field]
    for keyword, value in expected.items():
        if callable(value):
            assert value(found[keyword])
        else:
            assert found.get(keyword) == value


def test_reasons(openapi):
    """Reasons are at their status, with the method's note; failures of a job are no errors of a call."""

    def described(path, status):
        response = openapi["paths"][path]["post"]["responses"][status]
        name = response.get("$ref", "").rpartition("/")[2]
        return (openapi["components"]["responses"][name] if name else response)["description"]

    assert "`QUOTA_EXCEEDED`" in described("/v1/jobs", "429")
    assert "`MEDIA_NOT_FOUND`" in described("/api/v1/download", "404")
    assert "Here: job_id taken." in described("/v1/jobs", "409")
    assert "`URL_INVALID`" in described("/api/v1/batch", "400")
    assert "RECORDING_LOST" not in json.dumps(
        openapi["paths"]["/v1/jobs/{job}:stopRecording"]["post"]["responses"]
    )


def test_examples_are_valid(openapi):
    """Each example has the form that its schema requires."""
    registry = referencing.Registry().with_resource("urn:api", DRAFT202012.create_resource(openapi))
    count = 0
    for operation in operations(openapi).values():
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media in (media for each in contents for media in each.get("content", {}).values()):
            if "example" in media:
                count += 1
                schema = {"$ref": "urn:api" + media["schema"]["$ref"]}
                Draft202012Validator(schema, registry=registry).validate(media["example"])
    assert count >= 10


async def test_served_as_json_and_yaml(client, openapi):
    """Both forms are the same document, compressed for clients that accept it, 304 for those that have it."""
    as_json = await client.get("/openapi.json")
    as_yaml = await client.get("/openapi.yaml")
    assert as_json.json() == yaml.safe_load(as_yaml.text) == openapi
    assert as_json.headers["content-type"] == "application/json"
    assert as_yaml.headers["content-type"] == "application/yaml"
    assert as_json.headers["content-encoding"] == "gzip"
    cached = await client.get("/openapi.json", headers={"if-none-match": as_json.headers["etag"]})
    assert (cached.status_code, cached.content) == (304, b"")
    assert (await client.get("/openapi.json", headers={"if-none-match": '"other"'})).status_code == 200
    assert (await client.get("/openapi.json", headers={"accept-encoding": "identity"})).json() == openapi


async def test_page_loads_only_from_this_server(client):
    """Everything that /docs refers to is served; its policy allows no inline scripts and no other hosts."""
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    references = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(references) == 4
    for reference in references:
        asset = await client.get(f"/{reference}")
        assert asset.status_code == 200, reference
        assert asset.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page.text)
    assert "openapi.json" in (await client.get("/docs/docs.js")).text


@pytest.mark.parametrize("path", ["/docs/", "/docs/swagger-ui.css.map", "/docs/%2e%2e/app.py", "/openapi"])
async def test_only_listed_files_are_served(client, path):
    """Other files of the packages, and paths out of them, do not exist."""
    assert (await client.get(path)).status_code == 404


async def test_documents_are_read_only(client):
    """Other methods than GET and HEAD are 405."""
    assert (await client.head("/openapi.json")).status_code == 200
    response = await client.post("/openapi.json")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
