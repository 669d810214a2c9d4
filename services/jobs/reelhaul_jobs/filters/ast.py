"""What a filter says once it is parsed: terms over typed fields, joined by AND, OR and NOT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Sign(Enum):
    """How a term compares."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    #: There is such a key.
    HAS = ":"


class Kind(Enum):
    """What a field holds, and so what may be asked of it."""

    #: One of some names, told as its number; = and !=.
    CHOICE = "choice"
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

    kind: Kind
    #: For CHOICE: name -> number.
    names: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text that may be open at either end; where it is open, the case of ASCII letters is ignored."""

    text: str
    open_before: bool = False
    open_after: bool = False

    @property
    def exact(self) -> bool:
        """Whether it is open nowhere."""
        return not (self.open_before or self.open_after)


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison; an unset field is equal to nothing, less than nothing, unequal to all."""

    field: str
    sign: Sign
    value: int | datetime | Pattern
    #: Of a MAP: whose value it is.
    key: str = ""


@dataclass(frozen=True, slots=True)
class Every:
    """All of them hold."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """One of them holds."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold."""

    node: Node


Node = Term | Every | Any | Not


def names(node: Node, field: str) -> bool:
    """Whether *node* says anything of *field*."""
    match node:
        case Every(nodes) | Any(nodes):
            return any(names(inner, field) for inner in nodes)
        case Not(inner):
            return names(inner, field)
        case Term():
            return node.field == field


def pinned(node: Node | None, field: str) -> str:
    """The text that *field* must be for *node* to hold; empty where it may be another, or none."""
    match node:
        case Every(nodes):
            return next((text for inner in nodes if (text := pinned(inner, field))), "")
        case Term(sign=Sign.EQUAL, value=Pattern() as value) if node.field == field and value.exact:
            return value.text
        case _:
            return ""
