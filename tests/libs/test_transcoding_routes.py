"""Templates and routes: what starts, what leads where."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelhaul_transcoding.errors import Fault, MethodNotAllowed, NoRoute
from reelhaul_transcoding.routing.router import RouteError, Router
from reelhaul_transcoding.routing.templates import MANY, ONE, TemplateError, parsed

_WORD = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_SEGMENTS = st.lists(_WORD | st.just(ONE), min_size=1, max_size=4)


@given(
    literals=st.lists(_WORD, max_size=3),
    inside=_SEGMENTS,
    many=st.booleans(),
    verb=st.just("") | _WORD,
    fills=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=8),
)
def test_a_path_made_from_a_template_leads_back(literals, inside, many, verb, fills) -> None:
    """Whatever stands in a variable comes out of the path as it went in."""
    segments = [*inside, MANY] if many else inside
    source = "/" + "/".join([*literals, "{name=" + "/".join(segments) + "}"]) + (f":{verb}" if verb else "")
    fill = iter(fills)
    parts = [next(fill) if segment in (ONE, MANY) else segment for segment in segments]
    path = (
        "/" + "/".join([*literals, *(quote(part, safe="") for part in parts)]) + (f":{verb}" if verb else "")
    )
    router: Router[str] = Router()
    router.add("GET", parsed(source), "here", "here")
    match = router.match("GET", path.encode())
    several = len(segments) > 1 or many
    told = "/".join(part.replace("/", "%2F") if several else part for part in parts)
    assert match.variables == [("name", told)]


@given(st.text("/{}=*:.ab%2F", max_size=12))
def test_any_text_is_a_template_or_an_error(source) -> None:
    """The parser ends, and what it takes can be matched."""
    try:
        template = parsed(source)
    except TemplateError:
        return
    router: Router[str] = Router()
    router.add("GET", template, "here", "here")


@given(st.binary(max_size=20))
def test_any_path_is_matched_or_refused(path) -> None:
    """Never anything but a Fault."""
    router: Router[str] = Router()
    router.add("GET", parsed("/{a}/{b=**}"), "here", "here")
    router.add("GET", parsed("/x/{b=**}/y:go"), "there", "there")
    with contextlib.suppress(Fault):
        router.match("GET", b"/" + path)


def test_two_methods_on_the_same_paths_do_not_start() -> None:
    """Names of variables make no difference; both methods are named."""
    router: Router[str] = Router()
    router.add("GET", parsed("/v1/{a}:go"), "a", "lab.First")
    router.add("POST", parsed("/v1/{a}:go"), "a", "lab.First")
    with pytest.raises(RouteError, match=r"lab\.Second.*lab\.First"):
        router.add("GET", parsed("/v1/{b}:go"), "b", "lab.Second")


def test_the_order_of_registration_makes_no_difference() -> None:
    """A literal beats ``*`` beats ``**``, and a branch that fails is left again."""
    templates = ["/v1/**", "/v1/{x}/b", "/v1/a/{y}", "/v1/a/c"]
    for order in (templates, templates[::-1]):
        router: Router[str] = Router()
        for template in order:
            router.add("GET", parsed(template), template, template)
        paths = ("/v1/a/c", "/v1/a/b", "/v1/q/b", "/v1/a/b/c")
        told = [router.match("GET", path.encode()).target for path in paths]
        assert told == ["/v1/a/c", "/v1/a/{y}", "/v1/{x}/b", "/v1/**"]


def test_a_method_searches_by_itself() -> None:
    """POST finds its route past a more specific one of GET; 405 only where it has none."""
    router: Router[str] = Router()
    router.add("GET", parsed("/v1/a"), "get", "get")
    router.add("POST", parsed("/v1/{x}"), "post", "post")
    router.add("POST", parsed("/v1/{x}:go"), "go", "go")
    assert router.match("POST", b"/v1/a").target == "post"
    with pytest.raises(MethodNotAllowed) as refused:
        router.match("DELETE", b"/v1/a")
    assert refused.value.allowed == ("GET", "POST")
    with pytest.raises(MethodNotAllowed):
        router.match("GET", b"/v1/a:go")
    with pytest.raises(NoRoute):
        router.match("GET", b"/v2")


def test_a_verb_of_others_is_data_here() -> None:
    """Ids with a colon are not lost because some other path has such a verb."""
    router: Router[str] = Router()
    router.add("GET", parsed("/v1/{x}"), "plain", "plain")
    router.add("POST", parsed("/v2/{x}:go"), "go", "go")
    assert router.match("GET", b"/v1/a:go").variables == [("x", "a:go")]
