"""Generated requests: whatever the path, the query, the headers and the body, no answer is a server error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.libs import asgi, lab
from tests.libs.lab import EchoUpstream

from reelhaul_transcoding import Options, Transcoder
from reelhaul_transcoding.routing.router import Router
from reelhaul_transcoding.routing.rules import RouteError
from reelhaul_transcoding.routing.templates import TemplateError, parse_template

_LENIENT = Options(
    ignore_unknown_parameters=lambda _: True,
    reject_conflicts=False,
    ignore_unbound_body=True,
    case_insensitive_enums=True,
)
_APPS = [Transcoder([(lab.service(), EchoUpstream())], options) for options in (Options(), _LENIENT)]
_FIELDS = [field.name for field in lab.message_class("lab.v1.All").DESCRIPTOR.fields]

_SEGMENT = st.sampled_from(
    ["v1", "all", "subs", "watch", "nobody", "foo", "sum", "raw", "", "7"]
) | st.builds(quote, st.text(max_size=4))
_PATH = st.lists(_SEGMENT, max_size=4).map("/".join) | st.text("/%:?*{}0aZ.", max_size=8)
_NAME = st.builds(
    "".join,
    st.lists(st.sampled_from(_FIELDS) | st.sampled_from([".", "[", "]", "=", "&", "%", ""]), max_size=4),
)
_VALUE = st.sampled_from(["", "1", "-1", "true", "RED", "1s", "null", "{}", "[]", "NaN", "1e999"]) | st.text(
    max_size=6
)
_QUERY = st.lists(st.tuples(_NAME, st.builds(quote, _VALUE)), max_size=4).map(
    lambda pairs: "&".join("=".join(pair) for pair in pairs)
) | st.text("[]%&=+.;sm", max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _VALUE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*_FIELDS, "name", "child", "@type", "value"]), inner, max_size=4)
    ),
    max_leaves=8,
)
_BODY = _JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=12)
_HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "accept", "grpc-timeout", "x-server-timeout", "grpc-metadata-a-bin"]),
    st.sampled_from(["application/json", "text/event-stream", "1S", "0", "-1", "YQ", "!", "", "é", "a, b"]),
    max_size=2,
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all requests."""
    with asyncio.Runner() as running:
        yield running


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    app=st.sampled_from(_APPS),
    method=st.sampled_from(["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS", "get", "*"]),
    path=_PATH,
    query=_QUERY,
    headers=_HEADERS,
    body=_BODY,
)
def test_no_request_is_a_server_error(runner, app, method, path, query, headers, body) -> None:
    """Each response is complete, and an error is a google.rpc.Status that says what is wrong."""
    url = f"/{path}?{query}"
    response = runner.run(asgi.request(app, method, url, body=body, headers=headers))
    assert response.complete
    # A deadline of zero has passed at once.
    assert 200 <= response.status < 500, response
    if response.status >= 400 and method != "HEAD":
        assert response.json["message"]
        assert response.json["code"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    templates=st.lists(
        st.lists(
            st.sampled_from(["a", "b", "*", "**", "{x}", "{y=*}", "{z=a/*}", "{w=**}", "{x.y=a/**/b}"]),
            min_size=1,
            max_size=4,
        ).map(lambda segments: "/" + "/".join(segments)),
        max_size=6,
    ),
    path=st.lists(st.sampled_from(["a", "b", "c", "", "a:v", "%2F"]), max_size=6).map(
        lambda parts: "/" + "/".join(parts)
    ),
)
def test_routers_of_any_templates_agree_in_any_order(templates, path) -> None:
    """Which route matches depends on the templates, and not on the order of their registration."""
    assert _match(templates, path) == _match(templates[::-1], path)


def _match(templates: list[str], path: str) -> object:
    """Return the shape of the template that matches, and what its wildcards match."""
    router: Router[str] = Router()
    for source in templates:
        try:
            template = parse_template(source)
            router.add("GET", template, "/".join(template.segments), source)
        except (TemplateError, RouteError):
            continue
    try:
        return router.match("GET", path.encode()).target
    except Exception as error:
        return str(error)
