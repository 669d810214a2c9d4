"""The syntax tree of a filter: terms over typed fields, joined by AND, OR and NOT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Operator(Enum):
    """How a term compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    #: The map has the key.
    HAS = ":"


class FieldKind(Enum):
    """The type of a field, which decides the operators that it takes."""

    #: One of a set of names, stored as its number; = and !=.
    ENUM = "enum"
    #: Text; = and !=.
    TEXT = "text"
    #: Text; = and !=, with * at either end.
    PATTERN = "pattern"
    #: An integer of 64 bits; all comparisons.
    NUMBER = "number"
    #: A time; all comparisons.
    TIME = "time"
    #: Text by key; = and != of labels.key, and : for whether there is one.
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Field:
    """A field that filters may name."""

    kind: FieldKind
    #: For ENUM: name -> number.
    names: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text that may have a wildcard at either end; with one, the case of ASCII letters is ignored."""

    text: str
    leading_wildcard: bool = False
    trailing_wildcard: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether it has no wildcard."""
        return not (self.leading_wildcard or self.trailing_wildcard)


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison; an unset field is equal to nothing, less than nothing, unequal to everything."""

    field: str
    operator: Operator
    value: int | datetime | Pattern
    #: The key, for a MAP.
    key: str = ""


@dataclass(frozen=True, slots=True)
class And:
    """All nodes match."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one node matches."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The node does not match."""

    node: Node


Node = Term | And | Or | Not


def mentions_field(node: Node, field: str) -> bool:
    """Return whether *node* has a term over *field*."""
    match node:
        case And(nodes) | Or(nodes):
            return any(mentions_field(child, field) for child in nodes)
        case Not(child):
            return mentions_field(child, field)
        case Term():
            return node.field == field


def required_value(node: Node | None, field: str) -> str:
    """Return the text that *field* must have for *node* to match; empty if there is no single one."""
    match node:
        case And(nodes):
            return next((text for child in nodes if (text := required_value(child, field))), "")
        case Term(operator=Operator.EQUAL, value=Pattern() as value) if (
            node.field == field and value.is_exact
        ):
            return value.text
        case _:
            return ""
