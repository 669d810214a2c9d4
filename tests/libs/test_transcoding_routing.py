"""Path templates and the router."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelhaul_transcoding.errors import MethodNotAllowed, RouteNotFound, TranscodingError
from reelhaul_transcoding.routing.router import Router
from reelhaul_transcoding.routing.rules import RouteError
from reelhaul_transcoding.routing.templates import MANY, ONE, TemplateError, parse_template

_WORD = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_SEGMENTS = st.lists(_WORD | st.just(ONE), min_size=1, max_size=4)


def _router(*routes: tuple[str, str]) -> Router[str]:
    """Return a router whose targets are the templates of *routes*."""
    router: Router[str] = Router()
    for method, template in routes:
        router.add(method, parse_template(template), template, template)
    return router


@given(
    literals=st.lists(_WORD, max_size=3),
    inner=_SEGMENTS,
    many=st.booleans(),
    verb=st.just("") | _WORD,
    values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=8),
)
def test_variables_survive_the_path(literals, inner, many, verb, values) -> None:
    """A path built from a template and values matches, and the variable has those values."""
    segments = [*inner, MANY] if many else inner
    suffix = f":{verb}" if verb else ""
    template = "/" + "/".join([*literals, "{name=" + "/".join(segments) + "}"]) + suffix
    next_value = iter(values)
    parts = [next(next_value) if segment in (ONE, MANY) else segment for segment in segments]
    path = "/" + "/".join([*literals, *(quote(part, safe="") for part in parts)]) + suffix
    match = _router(("GET", template)).match("GET", path.encode())
    multiple = len(segments) > 1 or many
    expected = "/".join(part.replace("/", "%2F") if multiple else part for part in parts)
    assert match.variables == [("name", expected)]


@given(st.text("/{}=*:.ab%2F", max_size=12))
def test_any_text_is_a_template_or_an_error(source) -> None:
    """The parser terminates, and the router takes what it accepts."""
    try:
        template = parse_template(source)
    except TemplateError:
        return
    router: Router[str] = Router()
    router.add("GET", template, "target", "name")


@given(st.binary(max_size=20))
def test_any_path_matches_or_is_rejected(path) -> None:
    """Only a TranscodingError is raised."""
    router = _router(("GET", "/{a}/{b=**}"), ("GET", "/x/{b=**}/y:go"))
    with contextlib.suppress(TranscodingError):
        router.match("GET", b"/" + path)


def test_two_methods_must_not_match_the_same_paths() -> None:
    """The names of variables make no difference; the error names both methods."""
    router: Router[str] = Router()
    router.add("GET", parse_template("/v1/{a}:go"), "a", "lab.First")
    router.add("POST", parse_template("/v1/{a}:go"), "a", "lab.First")
    with pytest.raises(RouteError, match=r"lab\.Second.*lab\.First"):
        router.add("GET", parse_template("/v1/{b}:go"), "b", "lab.Second")


def test_registration_order_makes_no_difference() -> None:
    """A literal beats ``*`` beats ``**``, with backtracking."""
    templates = ["/v1/**", "/v1/{x}/b", "/v1/a/{y}", "/v1/a/c"]
    for order in (templates, templates[::-1]):
        router = _router(*(("GET", template) for template in order))
        paths = ("/v1/a/c", "/v1/a/b", "/v1/q/b", "/v1/a/b/c")
        targets = [router.match("GET", path.encode()).target for path in paths]
        assert targets == ["/v1/a/c", "/v1/a/{y}", "/v1/{x}/b", "/v1/**"]


@pytest.mark.parametrize(
    ("path", "strict", "lenient"),
    [("/v1/a", "/v1/{x}", "/v1/{x}"), ("/v1/a/", None, "/v1/{x}"), ("/v1/a//", None, None), ("/", "/", "/")],
)
def test_trailing_slash(path, strict, lenient) -> None:
    """It makes another path, unless the router ignores it."""
    for ignore, expected in ((False, strict), (True, lenient)):
        router: Router[str] = Router(ignore_trailing_slash=ignore)
        for template in ("/v1/{x}", "/"):
            router.add("GET", parse_template(template), template, template)
        if expected is None:
            with pytest.raises(RouteNotFound):
                router.match("GET", path.encode())
        else:
            assert router.match("GET", path.encode()).target == expected


def test_each_method_is_matched_separately() -> None:
    """POST matches its route despite a more specific one of GET; 405 only if it has none."""
    router = _router(("GET", "/v1/a"), ("POST", "/v1/{x}"), ("POST", "/v1/{x}:go"))
    assert router.match("POST", b"/v1/a").target == "/v1/{x}"
    with pytest.raises(MethodNotAllowed) as failure:
        router.match("DELETE", b"/v1/a")
    assert failure.value.allowed == ("GET", "POST")
    with pytest.raises(MethodNotAllowed):
        router.match("GET", b"/v1/a:go")
    with pytest.raises(RouteNotFound):
        router.match("GET", b"/v2")


def test_verb_of_another_path_is_part_of_the_id() -> None:
    """An ID with a colon matches although another path has that verb."""
    router = _router(("GET", "/v1/{x}"), ("POST", "/v2/{x}:go"))
    assert router.match("GET", b"/v1/a:go").variables == [("x", "a:go")]
