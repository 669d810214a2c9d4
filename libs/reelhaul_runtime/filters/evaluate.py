"""Evaluates a filter on the field values of one resource, for watches."""

from __future__ import annotations

import operator
import string
from collections.abc import Callable, Mapping
from typing import Any

from reelhaul_runtime.filters.ast import And, Node, Not, Operator, Or, Pattern, Term

#: Values by field: int, str, datetime, a mapping of str, or None if unset.
Facts = Mapping[str, object]

#: What the operators of order do, in Python and in SQLAlchemy.
COMPARISONS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}

# As databases do it without a locale: letters beyond ASCII keep their case.
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def matches(node: Node, facts: Facts) -> bool:
    """Return whether *node* matches *facts*."""
    match node:
        case And(nodes):
            return all(matches(child, facts) for child in nodes)
        case Or(nodes):
            return any(matches(child, facts) for child in nodes)
        case Not(child):
            return not matches(child, facts)
        case Term():
            return _matches_term(node, facts)


def _matches_term(term: Term, facts: Facts) -> bool:
    fact = facts[term.field]
    if isinstance(fact, Mapping):
        fact = fact.get(term.key)
    match term.operator:
        case Operator.HAS:
            return fact is not None
        case Operator.EQUAL:
            return _equals(fact, term.value)
        case Operator.NOT_EQUAL:
            return not _equals(fact, term.value)
    return _compares(fact, term)


def _equals(fact: object, value: object) -> bool:
    if not isinstance(value, Pattern):
        return fact == value
    if not isinstance(fact, str) or value.is_exact:
        return fact == value.text
    text, pattern = fact.translate(_LOWER), value.text.translate(_LOWER)
    if value.leading_wildcard and value.trailing_wildcard:
        return pattern in text
    return text.endswith(pattern) if value.leading_wildcard else text.startswith(pattern)


def _compares(fact: object, term: Term) -> bool:
    # The parser gives numbers and times only, of the type that the field has.
    return fact is not None and bool(COMPARISONS[term.operator](fact, term.value))
