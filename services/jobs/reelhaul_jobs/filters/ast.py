"""What a filter says once it is parsed: terms over typed fields, joined by AND, OR and NOT."""

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
    #: There is such a key.
    HAS = ":"


class FieldKind(Enum):
    """What a field holds, and so what may be asked of it."""

    #: One of some names, told as its number; = and !=.
    ENUM = "choice"
    #: Text; = and !=.
    TEXT = "text"
    #: Text; = and !=, with * at either end.
    PATTERN = "pattern"
    #: A time; all comparisons.
    TIME = "time"
    #: Text by key; = and != of labels.key, and : for whether there is one.
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Field:
    """A field that filters may name."""

    kind: FieldKind
    #: For CHOICE: name -> number.
    names: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text that may be open at either end; where it is open, the case of ASCII letters is ignored."""

    text: str
    leading_wildcard: bool = False
    trailing_wildcard: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether it is open nowhere."""
        return not (self.leading_wildcard or self.trailing_wildcard)


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison; an unset field is equal to nothing, less than nothing, unequal to all."""

    field: str
    operator: Operator
    value: int | datetime | Pattern
    #: Of a MAP: whose value it is.
    key: str = ""


@dataclass(frozen=True, slots=True)
class And:
    """All of them hold."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them holds."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold."""

    node: Node


Node = Term | And | Or | Not


def mentions_field(node: Node, field: str) -> bool:
    """Whether *node* says anything of *field*."""
    match node:
        case And(nodes) | Or(nodes):
            return any(mentions_field(inner, field) for inner in nodes)
        case Not(inner):
            return mentions_field(inner, field)
        case Term():
            return node.field == field


def required_value(node: Node | None, field: str) -> str:
    """The text that *field* must be for *node* to hold; empty where it may be another, or none."""
    match node:
        case And(nodes):
            return next((text for inner in nodes if (text := required_value(inner, field))), "")
        case Term(operator=Operator.EQUAL, value=Pattern() as value) if (
            node.field == field and value.is_exact
        ):
            return value.text
        case _:
            return ""
