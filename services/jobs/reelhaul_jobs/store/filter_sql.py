"""Filters as conditions of a database; every value is bound, none is written into the text."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any as Whatever

from sqlalchemy import Column, ColumnElement, String, and_, not_, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from reelhaul_jobs.filters.ast import And, Node, Not, Operator, Or, Pattern, Term
from reelhaul_jobs.store.tables import UNSET

#: How a value is kept in its column, e.g. a time as microseconds.
Kept = Callable[[Whatever], Whatever]

_ORDERS: Mapping[Operator, Callable[[Whatever, Whatever], Whatever]] = {
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


class _Member(FunctionElement[str]):
    """One member of a JSON object that is kept as text; NULL where there is none."""

    type = String()
    inherit_cache = True
    name = "member"


@compiles(_Member, "sqlite")
def _member_on_sqlite(element: _Member, compiler: Whatever, **how: Whatever) -> str:
    # Quoted, for keys may hold a hyphen; the parser lets no key through that holds a quote.
    text, name = (compiler.process(clause, **how) for clause in element.clauses)
    return f"json_extract({text}, '$.\"' || {name} || '\"')"


@compiles(_Member, "postgresql")
def _member_on_postgresql(element: _Member, compiler: Whatever, **how: Whatever) -> str:
    text, name = (compiler.process(clause, **how) for clause in element.clauses)
    return f"(CAST({text} AS jsonb) ->> CAST({name} AS text))"


def condition(node: Node, columns: Mapping[str, tuple[ColumnElement[Whatever], Kept]]) -> ColumnElement[bool]:
    """*node* over *columns*, by field name. It is never NULL, so that NOT means what it says."""
    match node:
        case And(nodes):
            return and_(*(condition(inner, columns) for inner in nodes))
        case Or(nodes):
            return or_(*(condition(inner, columns) for inner in nodes))
        case Not(inner):
            return not_(condition(inner, columns))
        case Term():
            column, kept = columns[node.field]
            return _term(node, _Member(column, node.key) if node.key else column, kept)


def _term(term: Term, column: ColumnElement[Whatever], kept: Kept) -> ColumnElement[bool]:
    if term.operator is Operator.HAS:
        return _is_set(column)
    if term.operator is Operator.EQUAL:
        return _equals(column, term.value, kept)
    if term.operator is Operator.NOT_EQUAL:
        return not_(_equals(column, term.value, kept))
    value = kept(term.value)
    compare: Callable[[Whatever, Whatever], ColumnElement[bool]] = _ORDERS[term.operator]
    if (
        term.operator in (Operator.LESS, Operator.LESS_OR_EQUAL)
        and isinstance(column, Column)
        and UNSET in column.info
    ):
        # One bound, not two: SQLite would look for the first that it sees.
        return compare(column, min(value, column.info[UNSET] - 1))
    return and_(_is_set(column), compare(column, value))


def _equals(column: ColumnElement[Whatever], value: object, kept: Kept) -> ColumnElement[bool]:
    if not isinstance(value, Pattern):
        return _same(column, kept(value))
    if value.is_exact:
        return _same(column, kept(value.text))
    text = value.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like = f"{'%' * value.leading_wildcard}{text}{'%' * value.trailing_wildcard}"
    return and_(_is_set(column), column.ilike(like, escape="\\"))


def _same(column: ColumnElement[Whatever], value: object) -> ColumnElement[bool]:
    """Plain equality: PostgreSQL uses no index for IS NOT DISTINCT FROM."""
    if isinstance(column, Column) and not column.nullable and UNSET not in column.info:
        return column == value
    return and_(_is_set(column), column == value)


def _is_set(column: ColumnElement[Whatever]) -> ColumnElement[bool]:
    """Whether there is a value in *column*: it may have one that stands for none, greater than all others."""
    if isinstance(column, Column) and UNSET in column.info:
        unset: int = column.info[UNSET]
        return column < unset
    return column.is_not(None)
