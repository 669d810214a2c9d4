"""Routes: which method answers a request, by specificity and never by order of registration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from reelhaul_transcoding.errors import FieldFault, MethodNotAllowed, NoRoute
from reelhaul_transcoding.routing.percent import Unescape, decoded, decoded_but
from reelhaul_transcoding.routing.templates import MANY, ONE, Template, Variable, normalised

Target = TypeVar("Target")

#: A custom binding's kind that stands for every HTTP method.
ANY_METHOD = "*"


class RouteError(ValueError):
    """Two bindings of one method and shape, or a template that is none: fatal at start."""


@dataclass(frozen=True, slots=True)
class Match(Generic[Target]):
    """What a request led to, and what its path says: fields and their decoded texts."""

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
    literals: dict[str, _Node[Target]] = field(default_factory=dict)
    one: _Node[Target] | None = None
    #: By the literals that follow `**`, the longest first.
    many: dict[tuple[str, ...], dict[str, _Route[Target]]] = field(default_factory=dict)
    #: By HTTP method.
    ends: dict[str, _Route[Target]] = field(default_factory=dict)

    def find(self, parts: list[str], at: int, method: str) -> _Route[Target] | None:
        """The most specific route: a literal before `*` before `**`, going back where one fails."""
        if at == len(parts):
            if found := _of(self.ends, method):
                return found
        else:
            child = self.literals.get(parts[at])
            if child is not None and (found := child.find(parts, at + 1, method)):
                return found
            # An empty part is no id: nearly always it is a bug of the client.
            if self.one is not None and parts[at] and (found := self.one.find(parts, at + 1, method)):
                return found
        for suffix, ends in self.many.items():
            rest = len(parts) - len(suffix)
            if rest >= at and tuple(parts[rest:]) == suffix and (found := _of(ends, method)):
                return found
        return None


class Router(Generic[Target]):
    """A trie of templates for each custom verb."""

    def __init__(self, unescape: Unescape = Unescape.ALL_CHARACTERS_EXCEPT_SLASH) -> None:
        self._unescape = unescape
        self._verbs: dict[str, _Node[Target]] = {}
        self._methods: dict[str, None] = {}

    def add(self, method: str, template: Template, target: Target, name: str) -> None:
        """Bind *method* and *template* to *target*, called *name* in errors. Raises RouteError."""
        ends = self._ends(template)
        if other := ends.get(method):
            raise RouteError(
                f"{method} {template.source} of {name} and {method} {other.template.source} of {other.name}"
                " match the same paths"
            )
        ends[method] = _Route(template, target, name)
        self._methods[method] = None

    def match(self, method: str, raw_path: bytes) -> Match[Target]:
        """Where *method* of *raw_path*, as it came and without its query, leads.

        Raises FieldFault (malformed escapes), NoRoute or MethodNotAllowed.
        """
        path = _text(raw_path)
        head, colon, verb = path.rpartition(":")
        if verb and colon and "/" not in verb and verb in self._verbs:
            if found := self._found(method, verb, head):
                return found
            if allowed := self._allowed(verb, head):
                raise MethodNotAllowed(method, path, allowed)
        if found := self._found(method, "", path):
            return found
        if allowed := self._allowed("", path):
            raise MethodNotAllowed(method, path, allowed)
        raise NoRoute(method, path)

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """The methods that are bound to *raw_path*; none where there is no route."""
        path = _text(raw_path)
        head, colon, verb = path.rpartition(":")
        if verb and colon and "/" not in verb and (allowed := self._allowed(verb, head)):
            return allowed
        return self._allowed("", path)

    def _ends(self, template: Template) -> dict[str, _Route[Target]]:
        node = self._verbs.setdefault(template.verb, _Node())
        segments = template.segments
        if MANY in segments:
            place = segments.index(MANY)
            node = _descended(node, segments[:place])
            ends = node.many.setdefault(segments[place + 1 :], {})
            node.many = dict(sorted(node.many.items(), key=lambda item: -len(item[0])))
            return ends
        return _descended(node, segments).ends

    def _found(self, method: str, verb: str, path: str) -> Match[Target] | None:
        root = self._verbs.get(verb)
        if root is None or not path.startswith("/"):
            return None
        parts = path[1:].split("/") if len(path) > 1 else []
        compared = [normalised(part) for part in parts] if "%" in path else parts
        route = root.find(compared, 0, method)
        if route is None:
            return None
        template = route.template
        values = [(v.field, self._value(v, template.parts_of(v, parts))) for v in template.variables]
        return Match(route.target, template, values)

    def _value(self, variable: Variable, parts: list[str]) -> str:
        text = "/".join(parts)
        return decoded_but(self._unescape, text) if variable.multiple else decoded(text)

    def _allowed(self, verb: str, path: str) -> tuple[str, ...]:
        return tuple(sorted(m for m in self._methods if m != ANY_METHOD and self._found(m, verb, path)))


def _descended(node: _Node[Target], segments: tuple[str, ...]) -> _Node[Target]:
    for segment in segments:
        if segment == ONE:
            node.one = node.one or _Node()
            node = node.one
        else:
            node = node.literals.setdefault(segment, _Node())
    return node


def _of(ends: dict[str, _Route[Target]], method: str) -> _Route[Target] | None:
    return ends.get(method) or ends.get(ANY_METHOD)


def _text(raw_path: bytes) -> str:
    try:
        path = raw_path.decode()
        decoded(path)
    except ValueError as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise FieldFault("", f"the path holds {what}") from error
    return path
