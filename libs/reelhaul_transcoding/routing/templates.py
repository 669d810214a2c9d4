"""Path templates: the grammar of google.api.http.

    Template = "/" [Segments] [ ":" LITERAL ] ;   Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;  Variable = "{" FieldPath [ "=" Segments ] "}" ;

https://github.com/googleapis/googleapis/blob/master/google/api/http.proto. A template has at
most one ``**``, followed only by literals; variables are not nested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Wildcard segments: one non-empty segment of a path, and any number of segments.
ONE, MANY = "*", "**"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;=@]|%[0-9A-Fa-f]{2})+")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


class TemplateError(ValueError):
    """The template breaks the grammar; the message names the column."""

    def __init__(self, template: str, column: int, message: str) -> None:
        super().__init__(f"{template!r}, column {column + 1}: {message}")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable: the field that it binds and its segments from ``start`` up to ``stop``."""

    field: str
    start: int
    stop: int
    #: Whether it may match several path segments: %2F then stays encoded.
    multiple: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template."""

    source: str
    segments: tuple[str, ...]
    variables: tuple[Variable, ...]
    verb: str = ""

    def segments_of(self, variable: Variable, path_segments: list[str]) -> list[str]:
        """Return the segments of a matching path that *variable* matches."""
        many = self.segments.index(MANY) if MANY in self.segments else len(self.segments)
        # Segments after `**` are counted from the end of the path.
        shift = len(path_segments) - len(self.segments)
        start, stop = variable.start, variable.stop
        return path_segments[start + shift if start > many else start : stop + shift if stop > many else stop]


def parse_template(source: str) -> Template:
    """Parse the path template *source*. Raises TemplateError."""
    return _Parser(source).parse()


def normalize_escapes(literal: str) -> str:
    """Return *literal* with the hex digits of its escapes in upper case, for comparisons."""
    return _ESCAPE.sub(lambda escape: escape[0].upper(), literal) if "%" in literal else literal


class _Parser:
    """Recursive-descent parser of the grammar above."""

    def __init__(self, source: str) -> None:
        self._source, self._position = source, 0
        self._segments: list[str] = []
        self._variables: list[Variable] = []
        self._fields: set[str] = set()
        self._has_many = False

    def parse(self) -> Template:
        self._expect("/")
        verb = ""
        if not self._at_end():
            self._parse_segments(in_variable=False)
            if self._accept(":"):
                verb = normalize_escapes(self._match(_LITERAL, "a verb"))
        if not self._at_end():
            raise self._error(f"unexpected {self._source[self._position]!r}")
        return Template(self._source, tuple(self._segments), tuple(self._variables), verb)

    def _parse_segments(self, *, in_variable: bool) -> None:
        self._parse_segment(in_variable=in_variable)
        while self._accept("/"):
            self._parse_segment(in_variable=in_variable)

    def _parse_segment(self, *, in_variable: bool) -> None:
        if self._source.startswith("{", self._position):
            if in_variable:
                raise self._error("variables must not be nested")
            self._parse_variable()
        elif self._accept(MANY):
            self._append(MANY)
        elif self._accept(ONE):
            self._append(ONE)
        else:
            literal = self._match(_LITERAL, "a segment")
            if in_variable and "=" in literal:
                raise self._error("a variable has a second '='")
            self._append(normalize_escapes(literal))

    def _parse_variable(self) -> None:
        self._expect("{")
        names = [self._match(_IDENTIFIER, "a field name")]
        while self._accept("."):
            names.append(self._match(_IDENTIFIER, "a field name"))
        field = ".".join(names)
        if field in self._fields:
            raise self._error(f"field {field} is bound twice")
        self._fields.add(field)
        start = len(self._segments)
        if self._accept("="):
            self._parse_segments(in_variable=True)
        else:
            self._append(ONE)
        self._expect("}")
        segments = self._segments[start:]
        multiple = len(segments) > 1 or MANY in segments
        self._variables.append(Variable(field, start, len(self._segments), multiple))

    def _append(self, segment: str) -> None:
        if self._has_many and segment in (ONE, MANY):
            raise self._error("only literals may follow '**'")
        self._has_many = self._has_many or segment == MANY
        self._segments.append(segment)

    def _match(self, pattern: re.Pattern[str], expected: str) -> str:
        match = pattern.match(self._source, self._position)
        if match is None:
            raise self._error(f"{expected} is missing")
        self._position = match.end()
        return match[0]

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._error(f"{text!r} is missing")

    def _accept(self, text: str) -> bool:
        if not self._source.startswith(text, self._position):
            return False
        self._position += len(text)
        return True

    def _at_end(self) -> bool:
        return self._position == len(self._source)

    def _error(self, message: str) -> TemplateError:
        return TemplateError(self._source, self._position, message)
