"""From the text of a filter to its tree, or to an error that says where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters.ast import And, Field, FieldKind, Node, Not, Operator, Or, Pattern, Term
from reelhaul_runtime.errors import ReelhaulError, Violation

MAX_LENGTH = 8192
MAX_TERMS = 20
MAX_DEPTH = 5

# As Job.labels has them.
_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_SIGN = re.compile(r"!=|<=|>=|[=<>:]")
_BARE = re.compile(r"[^\s()\"',]+")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_WORDS = {"AND", "OR", "NOT"}
_ORDERED = {Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL}
_EQUALITY = {Operator.EQUAL, Operator.NOT_EQUAL}


def parse(text: str, fields: Mapping[str, Field]) -> Node | None:
    """The tree of *text* over *fields*; None where it is blank. Raises FILTER_INVALID.

    As in AIP-160, OR binds tighter than AND.
    """
    if len(text) > MAX_LENGTH:
        raise _invalid(MAX_LENGTH, f"a filter has at most {MAX_LENGTH} characters")
    parser = _Parser(text, fields)
    return parser.whole() if text.strip() else None


class _Parser:
    """Recursive descent, one method for each rule of the grammar; ``at`` is where it reads."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self._text, self._fields = text, fields
        self._at = self._terms = self._depth = 0

    def whole(self) -> Node:
        node = self._conjunction()
        if self._at < len(self._text):
            raise self._wrong("AND, OR or the end was expected")
        return node

    def _conjunction(self) -> Node:
        nodes = [self._disjunction()]
        while self._took_word("AND"):
            nodes.append(self._disjunction())
        return nodes[0] if len(nodes) == 1 else And(tuple(nodes))

    def _disjunction(self) -> Node:
        nodes = [self._factor()]
        while self._took_word("OR"):
            nodes.append(self._factor())
        return nodes[0] if len(nodes) == 1 else Or(tuple(nodes))

    def _factor(self) -> Node:
        if self._took_word("NOT") or self._took("-"):
            return Not(self._primary())
        return self._primary()

    def _primary(self) -> Node:
        if not self._took("("):
            return self._term()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"parentheses go at most {MAX_DEPTH} deep")
        node = self._conjunction()
        if not self._took(")"):
            raise self._wrong("a closing parenthesis was expected")
        self._depth -= 1
        return node

    def _term(self) -> Node:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._wrong(f"a filter has at most {MAX_TERMS} terms")
        begun = self._at
        path = self._matched(_NAME)
        if path is None or path[0] in _WORDS:
            self._at = begun
            raise self._wrong("a field was expected")
        name, key, field = self._field(path[0], begun)
        sign_at, found = self._at, self._matched(_SIGN)
        if found is None:
            raise self._wrong(f"a comparison was expected after {path[0]}")
        sign = Operator(found[0])
        value_at = self._at
        value, quoted = self._value()
        return self._made(name, key, field, (sign, sign_at), (value, quoted, value_at))

    def _field(self, path: str, begun: int) -> tuple[str, str, Field]:
        """The field that *path* names, and the key in it, where it is a map."""
        if path in self._fields:
            return path, "", self._fields[path]
        name, _, key = path.partition(".")
        field = self._fields.get(name)
        if field is None or field.kind is not FieldKind.MAP:
            raise _invalid(begun, f"{path} is none of the fields: {', '.join(self._fields)}")
        return name, key, field

    def _made(
        self, name: str, key: str, field: Field, sign: tuple[Operator, int], told: tuple[str, bool, int]
    ) -> Term:
        compares, sign_at = sign
        text, quoted, value_at = told
        if field.kind is FieldKind.MAP:
            return _map_term(name, key, compares, told, sign_at)
        allowed = _EQUALITY | _ORDERED if field.kind is FieldKind.TIME else _EQUALITY
        if compares not in allowed:
            signs = " ".join(s.value for s in Operator if s in allowed)
            raise _invalid(sign_at, f"{name} takes {signs}, not {compares.value}")
        if field.kind is FieldKind.TIME:
            return Term(name, compares, _time(_unescaped(text, quoted), value_at))
        if field.kind is FieldKind.ENUM:
            names = field.names or {}
            if text not in names:
                raise _invalid(value_at, f"{text!r} is none of {', '.join(names)}")
            return Term(name, compares, names[text])
        if field.kind is FieldKind.PATTERN:
            return Term(name, compares, _pattern(text, quoted))
        return Term(name, compares, Pattern(_unescaped(text, quoted)))

    def _value(self) -> tuple[str, bool]:
        """The value that stands here, as written, and whether it stood in quotes."""
        if quoted := self._matched(_QUOTED):
            return quoted[1] if quoted[1] is not None else quoted[2], True
        if bare := self._matched(_BARE):
            return bare[0], False
        raise self._wrong("a value was expected; quote one that holds spaces")

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            self._skip()
        return found

    def _took(self, sign: str) -> bool:
        self._skip()
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        self._skip()
        return True

    def _took_word(self, word: str) -> bool:
        self._skip()
        found = _NAME.match(self._text, self._at)
        if found is None or found[0] != word:
            return False
        self._at = found.end()
        self._skip()
        return True

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _wrong(self, text: str) -> ReelhaulError:
        return _invalid(self._at, text)


def _map_term(name: str, key: str, sign: Operator, told: tuple[str, bool, int], sign_at: int) -> Term:
    """A term over a map: ``labels.key = "value"``, ``labels:key`` or ``labels.key:*``."""
    text, quoted, _ = told
    value = _unescaped(text, quoted)
    has = sign is Operator.HAS and (not key or (text == "*" and not quoted))
    key = value if has and not key else key
    if (sign is not Operator.HAS and sign not in _EQUALITY) or not _KEY.fullmatch(key):
        raise _invalid(sign_at, f'{name} is asked as {name}.key = "value" or {name}:key')
    if has:
        return Term(name, Operator.HAS, Pattern(""), key)
    return Term(name, Operator.EQUAL if sign is Operator.HAS else sign, Pattern(value), key)


def _pattern(text: str, quoted: bool) -> Pattern:
    """*text* with a * at either end taken for "whatever"; a backslash before it makes it plain."""
    before = text.startswith("*")
    text = text[1:] if before else text
    backslashes = len(text[:-1]) - len(text[:-1].rstrip("\\"))
    after = text.endswith("*") and not (quoted and backslashes % 2)
    return Pattern(_unescaped(text[:-1] if after else text, quoted), before, after)


def _unescaped(text: str, quoted: bool) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if quoted else text


def _time(text: str, at: int) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(at, f"{text[:40]!r} is no time such as 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _invalid(position: int, text: str) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.FILTER_INVALID,
        f"filter, at {position}: {text}",
        metadata={"position": str(position)},
        violations=[Violation("filter", f"at {position}: {text}")],
    )
