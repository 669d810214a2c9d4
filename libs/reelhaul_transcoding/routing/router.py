"""Router: matches HTTP methods and paths to targets, by specificity and never by registration order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from reelhaul_transcoding.errors import FieldError, MethodNotAllowed, RouteNotFound
from reelhaul_transcoding.routing.percent import Unescape, percent_decode, percent_decode_except
from reelhaul_transcoding.routing.rules import RouteError
from reelhaul_transcoding.routing.templates import MANY, ONE, Template, Variable, normalize_escapes

Target = TypeVar("Target")

#: The kind of a custom binding that matches every HTTP method.
ANY_METHOD = "*"


@dataclass(frozen=True, slots=True)
class Match(Generic[Target]):
    """The target of a request and the variables of its path: fields and their decoded values."""

    target: Target
    template: Template
    variables: list[tuple[str, str]]


@dataclass(slots=True)
class _Route(Generic[Target]):
    template: Template
    target: Target
    name: str


@dataclass(slots=True)
class _Node(Generic[Target]):
    """A node of the trie; its edges are the segments of templates."""

    literals: dict[str, _Node[Target]] = field(default_factory=dict)
    #: The child for `*`.
    one: _Node[Target] | None = None
    #: Routes with `**` here, by the literals that follow it, longest first; then by HTTP method.
    many: dict[tuple[str, ...], dict[str, _Route[Target]]] = field(default_factory=dict)
    #: Routes that end here, by HTTP method.
    routes: dict[str, _Route[Target]] = field(default_factory=dict)

    def find(self, segments: list[str], index: int, method: str) -> _Route[Target] | None:
        """Return the most specific route: a literal before `*` before `**`, with backtracking."""
        if index == len(segments):
            if route := _for_method(self.routes, method):
                return route
        else:
            child = self.literals.get(segments[index])
            if child is not None and (route := child.find(segments, index + 1, method)):
                return route
            # `*` does not match an empty segment: an empty ID is nearly always a client bug.
            if (
                self.one is not None
                and segments[index]
                and (route := self.one.find(segments, index + 1, method))
            ):
                return route
        for suffix, routes in self.many.items():
            start = len(segments) - len(suffix)
            if (
                start >= index
                and tuple(segments[start:]) == suffix
                and (route := _for_method(routes, method))
            ):
                return route
        return None


class Router(Generic[Target]):
    """A trie of templates for each custom verb."""

    def __init__(
        self,
        unescape: Unescape = Unescape.ALL_CHARACTERS_EXCEPT_SLASH,
        *,
        ignore_trailing_slash: bool = False,
    ) -> None:
        self._unescape = unescape
        self._ignore_trailing_slash = ignore_trailing_slash
        self._verbs: dict[str, _Node[Target]] = {}
        #: An ordered set.
        self._methods: dict[str, None] = {}

    def add(self, method: str, template: Template, target: Target, name: str) -> None:
        """Route *method* and *template* to *target*; *name* is for errors. Raises RouteError."""
        routes = self._routes_of(template)
        if other := routes.get(method):
            raise RouteError(
                f"{method} {template.source} of {name} and {method} {other.template.source} of {other.name}"
                " match the same paths"
            )
        routes[method] = _Route(template, target, name)
        self._methods[method] = None

    def match(self, method: str, raw_path: bytes) -> Match[Target]:
        """Return the match of *method* and *raw_path* (still encoded; a query after it is ignored).

        Raises FieldError for malformed escapes, RouteNotFound, or MethodNotAllowed.
        """
        path = self._decode_path(raw_path)
        head, colon, verb = _split_verb(path)
        if verb and colon and "/" not in verb and verb in self._verbs:
            if match := self._find(method, verb, head):
                return match
            if allowed := self._allowed(verb, head):
                raise MethodNotAllowed(method, path, allowed)
        if match := self._find(method, "", path):
            return match
        if allowed := self._allowed("", path):
            raise MethodNotAllowed(method, path, allowed)
        raise RouteNotFound(method, path)

    def allowed_methods(self, raw_path: bytes) -> tuple[str, ...]:
        """Return the methods that are routed at *raw_path*; empty if there is no route."""
        path = self._decode_path(raw_path)
        head, colon, verb = _split_verb(path)
        if verb and colon and "/" not in verb and (allowed := self._allowed(verb, head)):
            return allowed
        return self._allowed("", path)

    def _decode_path(self, raw_path: bytes) -> str:
        path = _decode_path(raw_path)
        return path.removesuffix("/") or "/" if self._ignore_trailing_slash else path

    def _routes_of(self, template: Template) -> dict[str, _Route[Target]]:
        """Return the routes of the node for *template*, by HTTP method; creates the node."""
        node = self._verbs.setdefault(template.verb, _Node())
        segments = template.segments
        if MANY in segments:
            index = segments.index(MANY)
            node = _descend(node, segments[:index])
            routes = node.many.setdefault(segments[index + 1 :], {})
            node.many = dict(sorted(node.many.items(), key=lambda item: -len(item[0])))
            return routes
        return _descend(node, segments).routes

    def _find(self, method: str, verb: str, path: str) -> Match[Target] | None:
        root = self._verbs.get(verb)
        if root is None or not path.startswith("/"):
            return None
        segments = path[1:].split("/") if len(path) > 1 else []
        normalized = [normalize_escapes(segment) for segment in segments] if "%" in path else segments
        route = root.find(normalized, 0, method)
        if route is None:
            return None
        template = route.template
        variables = [
            (v.field, self._decode_variable(v, template.segments_of(v, segments))) for v in template.variables
        ]
        return Match(route.target, template, variables)

    def _decode_variable(self, variable: Variable, segments: list[str]) -> str:
        value = "/".join(segments)
        return percent_decode_except(self._unescape, value) if variable.multiple else percent_decode(value)

    def _allowed(self, verb: str, path: str) -> tuple[str, ...]:
        return tuple(sorted(m for m in self._methods if m != ANY_METHOD and self._find(m, verb, path)))


def _descend(node: _Node[Target], segments: tuple[str, ...]) -> _Node[Target]:
    for segment in segments:
        if segment == ONE:
            node.one = node.one or _Node()
            node = node.one
        else:
            node = node.literals.setdefault(segment, _Node())
    return node


def _for_method(routes: dict[str, _Route[Target]], method: str) -> _Route[Target] | None:
    return routes.get(method) or routes.get(ANY_METHOD)


def _split_verb(path: str) -> tuple[str, str, str]:
    """Return what precedes the last colon of *path*, the colon, and the verb as templates write it."""
    head, colon, verb = path.rpartition(":")
    return head, colon, normalize_escapes(verb)


def _decode_path(raw_path: bytes) -> str:
    """Return *raw_path* as text, escapes kept. Raises FieldError if it or its escapes are malformed."""
    try:
        # Some servers leave the query in raw_path; a `?` that belongs to the path is encoded.
        path = raw_path.partition(b"?")[0].decode()
        percent_decode(path)
    except ValueError as error:
        cause = "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise FieldError("", f"the path contains {cause}") from error
    return path
