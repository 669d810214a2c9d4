"""Turns filters into SQL conditions; every value is bound, none is part of the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, String, and_, not_, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from reelhaul_runtime.filters.ast import And, Node, Not, Operator, Or, Pattern, Term
from reelhaul_runtime.filters.evaluate import COMPARISONS

#: Key of Column.info: the value that counts as none, greater than all others.
UNSET = "unset"

#: Converts a value to what its column holds, e.g. a time to microseconds.
ToColumn = Callable[[Any], Any]


class _Member(FunctionElement[str]):
    """One member of a JSON object that is stored as text; NULL if there is none."""

    type = String()
    inherit_cache = True
    name = "member"


@compiles(_Member, "sqlite")
def _member_on_sqlite(element: _Member, compiler: Any, **options: Any) -> str:
    # Quoted, since keys may contain a hyphen; the parser rejects keys with a quote.
    json_text, key = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_extract({json_text}, '$.\"' || {key} || '\"')"


@compiles(_Member, "postgresql")
def _member_on_postgresql(element: _Member, compiler: Any, **options: Any) -> str:
    json_text, key = (compiler.process(clause, **options) for clause in element.clauses)
    return f"(CAST({json_text} AS jsonb) ->> CAST({key} AS text))"


def condition(node: Node, columns: Mapping[str, tuple[ColumnElement[Any], ToColumn]]) -> ColumnElement[bool]:
    """Return the condition of *node*, with *columns* by field. It is never NULL, so that NOT inverts it."""
    match node:
        case And(nodes):
            return and_(*(condition(child, columns) for child in nodes))
        case Or(nodes):
            return or_(*(condition(child, columns) for child in nodes))
        case Not(child):
            return not_(condition(child, columns))
        case Term():
            column, to_column = columns[node.field]
            return _term(node, _Member(column, node.key) if node.key else column, to_column)


def _term(term: Term, column: ColumnElement[Any], to_column: ToColumn) -> ColumnElement[bool]:
    if term.operator is Operator.HAS:
        return _is_set(column)
    if term.operator is Operator.EQUAL:
        return _equals(column, term.value, to_column)
    if term.operator is Operator.NOT_EQUAL:
        return not_(_equals(column, term.value, to_column))
    value = to_column(term.value)
    compare: Callable[[Any, Any], ColumnElement[bool]] = COMPARISONS[term.operator]
    if (
        term.operator in (Operator.LESS, Operator.LESS_OR_EQUAL)
        and isinstance(column, Column)
        and UNSET in column.info
    ):
        # One upper bound, not two: SQLite would use the index with the first that it sees.
        return compare(column, min(value, column.info[UNSET] - 1))
    return and_(_is_set(column), compare(column, value))


def _equals(column: ColumnElement[Any], value: object, to_column: ToColumn) -> ColumnElement[bool]:
    if not isinstance(value, Pattern):
        return _same(column, to_column(value))
    if value.is_exact:
        return _same(column, to_column(value.text))
    escaped = value.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like = f"{'%' * value.leading_wildcard}{escaped}{'%' * value.trailing_wildcard}"
    return and_(_is_set(column), column.ilike(like, escape="\\"))


def _same(column: ColumnElement[Any], value: object) -> ColumnElement[bool]:
    """Return an equality: PostgreSQL uses no index for IS NOT DISTINCT FROM."""
    if isinstance(column, Column) and not column.nullable and UNSET not in column.info:
        return column == value
    return and_(_is_set(column), column == value)


def _is_set(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return whether *column* has a value; its UNSET value, greater than all others, counts as none."""
    if isinstance(column, Column) and UNSET in column.info:
        unset: int = column.info[UNSET]
        return column < unset
    return column.is_not(None)
