"""The states that jobs can be in of which a filter holds: who looks for them need look at no others."""

from __future__ import annotations

from collections.abc import Set

from reelhaul_jobs.filters.ast import Any, Every, Node, Not, Sign, Term
from reelhaul_jobs.model.states import State

ALL: frozenset[State] = frozenset(State)
_ENDED = frozenset(state for state in State if state.terminal)


def states_of(node: Node | None) -> Set[State]:
    """The states in which *node* may hold; more than those in which it does, where that is not plain."""
    match node:
        case Every(nodes):
            return ALL.intersection(*map(states_of, nodes))
        case Any(nodes):
            return frozenset().union(*map(states_of, nodes))
        case Not(Term(field="state") as term):
            return ALL - _states_of_term(term)
        case Term():
            return _states_of_term(node)
    return ALL


def _states_of_term(term: Term) -> Set[State]:
    if term.field == "state":
        named = {state for state in State if state == term.value}
        return named if term.sign is Sign.EQUAL else ALL - named
    # What has not ended has no end_time, and that is unequal to every time.
    if term.field == "end_time" and term.sign is not Sign.UNEQUAL:
        return _ENDED
    return ALL
