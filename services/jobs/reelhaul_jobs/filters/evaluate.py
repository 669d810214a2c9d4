"""Whether a filter holds of facts in memory: for watches, webhooks, and the stores' twin."""

from __future__ import annotations

import string
from collections.abc import Mapping
from datetime import datetime

from reelhaul_jobs.filters.ast import Any, Every, Node, Not, Pattern, Sign, Term

#: What is known of a thing, by field: int, str, datetime, a mapping of str, or None where unset.
Facts = Mapping[str, object]

# As databases do without a locale: other letters keep their case.
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def holds(node: Node, facts: Facts) -> bool:
    """Whether *node* holds of *facts*."""
    match node:
        case Every(nodes):
            return all(holds(inner, facts) for inner in nodes)
        case Any(nodes):
            return any(holds(inner, facts) for inner in nodes)
        case Not(inner):
            return not holds(inner, facts)
        case Term():
            return _term_holds(node, facts)


def _term_holds(term: Term, facts: Facts) -> bool:
    fact = facts[term.field]
    if isinstance(fact, Mapping):
        fact = fact.get(term.key)
    match term.sign:
        case Sign.HAS:
            return fact is not None
        case Sign.EQUAL:
            return _equals(fact, term.value)
        case Sign.UNEQUAL:
            return not _equals(fact, term.value)
    return _ordered(fact, term)


def _equals(fact: object, value: object) -> bool:
    if not isinstance(value, Pattern):
        return fact == value
    if not isinstance(fact, str) or value.exact:
        return fact == value.text
    text, wanted = fact.translate(_LOWER), value.text.translate(_LOWER)
    if value.open_before and value.open_after:
        return wanted in text
    return text.endswith(wanted) if value.open_before else text.startswith(wanted)


def _ordered(fact: object, term: Term) -> bool:
    value = term.value
    if not isinstance(fact, datetime) or not isinstance(value, datetime):
        return False
    match term.sign:
        case Sign.LESS:
            return fact < value
        case Sign.AT_MOST:
            return fact <= value
        case Sign.MORE:
            return fact > value
    return fact >= value
