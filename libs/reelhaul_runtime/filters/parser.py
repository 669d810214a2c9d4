"""Parses the text of a filter into its syntax tree, or raises an error with the position."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, Violation
from reelhaul_runtime.filters.ast import And, Field, FieldKind, Node, Not, Operator, Or, Pattern, Term

MAX_LENGTH = 8192
MAX_TERMS = 20
MAX_DEPTH = 5

# The integers of a database column.
_NUMBERS = range(-(1 << 63), 1 << 63)
_NUMBER = re.compile(r"-?[0-9]{1,19}")

# The keys that labels allow.
_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_OPERATOR = re.compile(r"!=|<=|>=|[=<>:]")
_UNQUOTED = re.compile(r"[^\s()\"',]+")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_KEYWORDS = {"AND", "OR", "NOT"}
_ORDER = {Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL}
_EQUALITY = {Operator.EQUAL, Operator.NOT_EQUAL}
_ORDERED = {FieldKind.NUMBER, FieldKind.TIME}


def parse(text: str, fields: Mapping[str, Field], *, max_terms: int = MAX_TERMS) -> Node | None:
    """Parse *text* over *fields*; return None if it is blank. Raises FILTER_INVALID.

    As in AIP-160, OR binds tighter than AND.
    """
    if len(text) > MAX_LENGTH:
        raise _invalid(MAX_LENGTH, f"a filter has at most {MAX_LENGTH} characters")
    if (position := text.find("\0")) >= 0:
        raise _invalid(position, "a filter must not contain NUL, which PostgreSQL rejects")
    parser = _Parser(text, fields, max_terms)
    return parser.parse() if text.strip() else None


class _Parser:
    """A recursive descent parser, with one method for each rule of the grammar."""

    def __init__(self, text: str, fields: Mapping[str, Field], max_terms: int) -> None:
        self._text, self._fields, self._max_terms = text, fields, max_terms
        self._position = self._terms = self._depth = 0

    def parse(self) -> Node:
        node = self._conjunction()
        if self._position < len(self._text):
            raise self._error("AND, OR or the end was expected")
        return node

    def _conjunction(self) -> Node:
        nodes = [self._disjunction()]
        while self._accept_keyword("AND"):
            nodes.append(self._disjunction())
        return nodes[0] if len(nodes) == 1 else And(tuple(nodes))

    def _disjunction(self) -> Node:
        nodes = [self._factor()]
        while self._accept_keyword("OR"):
            nodes.append(self._factor())
        return nodes[0] if len(nodes) == 1 else Or(tuple(nodes))

    def _factor(self) -> Node:
        if self._accept_keyword("NOT") or self._accept("-"):
            return Not(self._primary())
        return self._primary()

    def _primary(self) -> Node:
        if not self._accept("("):
            return self._term()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"parentheses may be at most {MAX_DEPTH} deep")
        node = self._conjunction()
        if not self._accept(")"):
            raise self._error("a closing parenthesis was expected")
        self._depth -= 1
        return node

    def _term(self) -> Node:
        self._terms += 1
        if self._terms > self._max_terms:
            raise self._error(f"a filter has at most {self._max_terms} terms")
        start = self._position
        path = self._match(_NAME)
        if path is None or path[0] in _KEYWORDS:
            self._position = start
            raise self._error("a field was expected")
        name, key, field = self._field(path[0], start)
        operator_at, symbol = self._position, self._match(_OPERATOR)
        if symbol is None:
            raise self._error(f"a comparison was expected after {path[0]}")
        operator, value = Operator(symbol[0]), self._value()
        if field.kind is FieldKind.MAP:
            return _map_term(name, key, operator, operator_at, value)
        return _term(name, field, operator, operator_at, value)

    def _field(self, path: str, start: int) -> tuple[str, str, Field]:
        """Return the name of the field at *path*, the key if it is a map, and the field."""
        if path in self._fields:
            return path, "", self._fields[path]
        name, _, key = path.partition(".")
        field = self._fields.get(name)
        if field is None or field.kind is not FieldKind.MAP:
            raise _invalid(start, f"{path} is none of the fields: {', '.join(self._fields)}")
        return name, key, field

    def _value(self) -> _Value:
        start = self._position
        if quoted := self._match(_QUOTED):
            return _Value(quoted[1] if quoted[1] is not None else quoted[2], True, start)
        if unquoted := self._match(_UNQUOTED):
            return _Value(unquoted[0], False, start)
        raise self._error("a value was expected; quote a value that contains spaces")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()
            self._skip_space()
        return match

    def _accept(self, symbol: str) -> bool:
        """Skip *symbol* if it is next; return whether it was."""
        self._skip_space()
        if not self._text.startswith(symbol, self._position):
            return False
        self._position += len(symbol)
        self._skip_space()
        return True

    def _accept_keyword(self, keyword: str) -> bool:
        """Skip *keyword* if it is next; return whether it was."""
        self._skip_space()
        match = _NAME.match(self._text, self._position)
        if match is None or match[0] != keyword:
            return False
        self._position = match.end()
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._position)
        self._position = match.end() if match else self._position

    def _error(self, text: str) -> ReelhaulError:
        return _invalid(self._position, text)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as written, without its quotes."""

    text: str
    quoted: bool
    position: int

    @property
    def unescaped(self) -> str:
        return _unescape(self.text, self.quoted)


def _term(name: str, field: Field, operator: Operator, operator_at: int, value: _Value) -> Term:
    allowed = _EQUALITY | _ORDER if field.kind in _ORDERED else _EQUALITY
    if operator not in allowed:
        symbols = " ".join(each.value for each in Operator if each in allowed)
        raise _invalid(operator_at, f"{name} takes {symbols}, not {operator.value}")
    match field.kind:
        case FieldKind.TIME:
            return Term(name, operator, _time(value))
        case FieldKind.NUMBER:
            return Term(name, operator, _number(value))
        case FieldKind.ENUM:
            names = field.names or {}
            if value.text not in names:
                raise _invalid(value.position, f"{value.text!r} is none of {', '.join(names)}")
            return Term(name, operator, names[value.text])
        case FieldKind.PATTERN:
            return Term(name, operator, _pattern(value))
    return Term(name, operator, Pattern(value.unescaped))


def _map_term(name: str, key: str, operator: Operator, operator_at: int, value: _Value) -> Term:
    """Return a term over a map: ``labels.key = "value"``, ``labels:key`` or ``labels.key:*``."""
    has_key = operator is Operator.HAS and (not key or (value.text == "*" and not value.quoted))
    key = value.unescaped if has_key and not key else key
    if (operator is not Operator.HAS and operator not in _EQUALITY) or not _KEY.fullmatch(key):
        raise _invalid(operator_at, f'{name} takes the forms {name}.key = "value" and {name}:key')
    if has_key:
        return Term(name, Operator.HAS, Pattern(""), key)
    return Term(name, Operator.EQUAL if operator is Operator.HAS else operator, Pattern(value.unescaped), key)


def _pattern(value: _Value) -> Pattern:
    """Return the pattern of *value*: a * at either end is a wildcard unless a backslash escapes it."""
    text, quoted = value.text, value.quoted
    leading = text.startswith("*")
    text = text[1:] if leading else text
    backslashes = len(text[:-1]) - len(text[:-1].rstrip("\\"))
    trailing = text.endswith("*") and not (quoted and backslashes % 2)
    return Pattern(_unescape(text[:-1] if trailing else text, quoted), leading, trailing)


def _unescape(text: str, quoted: bool) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if quoted else text


def _number(value: _Value) -> int:
    if not _NUMBER.fullmatch(value.text) or int(value.text) not in _NUMBERS:
        raise _invalid(value.position, f"{value.text[:40]!r} is not an integer of 64 bits")
    return int(value.text)


def _time(value: _Value) -> datetime:
    text = value.unescaped
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(value.position, f"{text[:40]!r} is not a time such as 2026-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _invalid(position: int, text: str) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.FILTER_INVALID,
        f"filter, at {position}: {text}",
        metadata={"position": str(position)},
        violations=[Violation("filter", f"at {position}: {text}")],
    )
