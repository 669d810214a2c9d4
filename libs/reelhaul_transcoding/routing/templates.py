"""Path templates: the grammar of google.api.http, refused at start where they are wrong.

    Template = "/" [Segments] [ ":" LITERAL ] ;   Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;  Variable = "{" FieldPath [ "=" Segments ] "}" ;

https://github.com/googleapis/googleapis/blob/master/google/api/http.proto. One ``**`` at
most; only literals may follow it, and a variable holds no other variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Segments that match any one non-empty part, and any number of parts.
ONE, MANY = "*", "**"

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;=@]|%[0-9A-Fa-f]{2})+")


class TemplateError(ValueError):
    """The template breaks the grammar; the text says where."""

    def __init__(self, template: str, column: int, text: str) -> None:
        super().__init__(f"{template!r}, column {column + 1}: {text}")


@dataclass(frozen=True, slots=True)
class Variable:
    """A field and the segments that it takes, ``start`` to before ``stop``."""

    field: str
    start: int
    stop: int
    #: Whether it may span several parts of a path: %2F then stays encoded.
    multiple: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template."""

    source: str
    segments: tuple[str, ...]
    variables: tuple[Variable, ...]
    verb: str = ""

    @property
    def shape(self) -> str:
        """The template without names of variables: two of one shape match the same paths."""
        return "/" + "/".join(self.segments) + (f":{self.verb}" if self.verb else "")

    def parts_of(self, variable: Variable, parts: list[str]) -> list[str]:
        """Those of a matching path's *parts* that *variable* takes."""
        many = self.segments.index(MANY) if MANY in self.segments else len(self.segments)
        # What follows `**` is counted from the end.
        shift = len(parts) - len(self.segments)
        start, stop = variable.start, variable.stop
        return parts[start + shift if start > many else start : stop + shift if stop > many else stop]


def parsed(source: str) -> Template:
    """The template that *source* says. Raises TemplateError."""
    return _Parser(source).template()


def normalised(literal: str) -> str:
    """*literal* with the hex digits of its escapes in upper case: how literals are compared."""
    return _ESCAPE.sub(lambda escape: escape[0].upper(), literal) if "%" in literal else literal


_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


class _Parser:
    def __init__(self, source: str) -> None:
        self._source, self._at = source, 0
        self._segments: list[str] = []
        self._variables: list[Variable] = []

    def template(self) -> Template:
        self._expect("/")
        verb = ""
        if not self._done():
            self._list(in_variable=False)
            if self._take(":"):
                verb = normalised(self._matched(_LITERAL, "a verb"))
        if not self._done():
            raise self._error(f"unexpected {self._source[self._at]!r}")
        return Template(self._source, tuple(self._segments), tuple(self._variables), verb)

    def _list(self, *, in_variable: bool) -> None:
        self._segment(in_variable=in_variable)
        while self._take("/"):
            self._segment(in_variable=in_variable)

    def _segment(self, *, in_variable: bool) -> None:
        if self._source.startswith("{", self._at):
            if in_variable:
                raise self._error("a variable inside a variable")
            self._variable()
        elif self._take(MANY):
            self._add(MANY)
        elif self._take(ONE):
            self._add(ONE)
        else:
            literal = self._matched(_LITERAL, "a segment")
            if in_variable and "=" in literal:
                raise self._error("a second '=' in a variable")
            self._add(normalised(literal))

    def _variable(self) -> None:
        self._expect("{")
        field = self._matched(_IDENT, "a field name")
        while self._take("."):
            field += "." + self._matched(_IDENT, "a field name")
        if any(field == other.field for other in self._variables):
            raise self._error(f"field {field} is bound twice")
        start = len(self._segments)
        if self._take("="):
            self._list(in_variable=True)
        else:
            self._add(ONE)
        self._expect("}")
        taken = self._segments[start:]
        multiple = len(taken) > 1 or MANY in taken
        self._variables.append(Variable(field, start, len(self._segments), multiple))

    def _add(self, segment: str) -> None:
        if MANY in self._segments and segment in (ONE, MANY):
            raise self._error("only literals may follow '**'")
        self._segments.append(segment)

    def _matched(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._source, self._at)
        if found is None:
            raise self._error(f"{what} is missing")
        self._at = found.end()
        return found[0]

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._error(f"{text!r} is missing")

    def _take(self, text: str) -> bool:
        if not self._source.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _done(self) -> bool:
        return self._at == len(self._source)

    def _error(self, text: str) -> TemplateError:
        return TemplateError(self._source, self._at, text)
