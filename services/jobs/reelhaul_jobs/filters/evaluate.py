"""Whether a filter holds of facts in memory: for watches, webhooks, and the stores' twin."""

from __future__ import annotations

import string
from collections.abc import Mapping
from datetime import datetime

from reelhaul_jobs.filters.ast import And, Node, Not, Operator, Or, Pattern, Term

#: What is known of a thing, by field: int, str, datetime, a mapping of str, or None where unset.
Facts = Mapping[str, object]

# As databases do without a locale: other letters keep their case.
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def matches(node: Node, facts: Facts) -> bool:
    """Whether *node* holds of *facts*."""
    match node:
        case And(nodes):
            return all(matches(inner, facts) for inner in nodes)
        case Or(nodes):
            return any(matches(inner, facts) for inner in nodes)
        case Not(inner):
            return not matches(inner, facts)
        case Term():
            return _term_holds(node, facts)


def _term_holds(term: Term, facts: Facts) -> bool:
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
    return _ordered(fact, term)


def _equals(fact: object, value: object) -> bool:
    if not isinstance(value, Pattern):
        return fact == value
    if not isinstance(fact, str) or value.is_exact:
        return fact == value.text
    text, wanted = fact.translate(_LOWER), value.text.translate(_LOWER)
    if value.leading_wildcard and value.trailing_wildcard:
        return wanted in text
    return text.endswith(wanted) if value.leading_wildcard else text.startswith(wanted)


def _ordered(fact: object, term: Term) -> bool:
    value = term.value
    if not isinstance(fact, datetime) or not isinstance(value, datetime):
        return False
    match term.operator:
        case Operator.LESS:
            return fact < value
        case Operator.LESS_OR_EQUAL:
            return fact <= value
        case Operator.GREATER:
            return fact > value
    return fact >= value
