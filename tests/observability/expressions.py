"""PromQL expressions of alerts and dashboards: what they select, compared with the metrics that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import promql_parser

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy/observability"

#: The labels of each metric, by its name. A histogram has its name without a suffix.
Metrics = Mapping[str, frozenset[str]]

_ROW = re.compile(
    r"^\| `(?P<name>[a-z_]+)` \| (?P<type>\w+)[^|]*\|(?P<labels>[^|]*)\|(?P<meaning>[^|]*)\|", re.MULTILINE
)
_CODE = re.compile(r"`(\w+)`")
#: Labels that Prometheus adds.
_TARGET_LABELS = frozenset({"job", "instance"})
#: Metrics that are not Reelhaul's own: of Prometheus, and of the library's collectors for each process.
_FOREIGN = re.compile(r"ALERTS|up|(process|python)_\w+")


@cache
def documented_metrics() -> Metrics:
    """Return the metrics that docs/metrics.md names."""
    text = (ROOT / "docs/metrics.md").read_text()
    return {row["name"]: frozenset(_CODE.findall(row["labels"])) for row in _ROW.finditer(text)}


@cache
def documented_values() -> Mapping[str, frozenset[str]]:
    """Return the values of labels that docs/metrics.md names, by metric."""
    text = (ROOT / "docs/metrics.md").read_text()
    return {row["name"]: frozenset(_CODE.findall(row["meaning"])) for row in _ROW.finditer(text)}


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric that an expression selects, and the labels that it relies on."""

    metric: str
    labels: frozenset[str]
    matchers: Mapping[str, str]


def selectors(expression: str) -> list[Selector]:
    """Return what *expression* selects. Raises ValueError if it cannot be parsed."""
    return list(_selectors(promql_parser.parse(expression), frozenset()))


def find_mistakes(expression: str, metrics: Metrics, records: frozenset[str] = frozenset()) -> list[str]:
    """Return a sentence for each metric and label that does not exist; *records* are recording rules."""
    mistakes = []
    for selector in selectors(expression):
        name = re.sub(r"_(bucket|sum|count)$", "", selector.metric)
        if selector.metric in records or _FOREIGN.fullmatch(selector.metric):
            continue
        labels = metrics.get(selector.metric)
        if labels is None and name in metrics:
            labels = metrics[name] | {"le"}
        if labels is None:
            mistakes.append(f"there is no metric {selector.metric}")
            continue
        unknown = selector.labels - labels - _TARGET_LABELS
        mistakes += [f"{selector.metric} has no label {label}" for label in sorted(unknown)]
    return mistakes


def _selectors(node: promql_parser.Expr, grouped_by: frozenset[str]) -> Iterator[Selector]:
    """Yield the selectors below *node*, whose series are grouped by the labels *grouped_by*."""
    match node:
        case promql_parser.VectorSelector():
            matchers = {each.name: each.value for each in node.matchers.matchers}
            assert node.name is not None, "selectors name their metric"
            yield Selector(node.name, grouped_by | matchers.keys(), matchers)
        case promql_parser.MatrixSelector():
            yield from _selectors(node.vector_selector, grouped_by)
        case promql_parser.AggregateExpr():
            modifier = node.modifier
            by = modifier is not None and modifier.type == promql_parser.AggModifierType.By
            yield from _selectors(node.expr, frozenset(modifier.labels) if by and modifier else frozenset())
        case promql_parser.BinaryExpr():
            yield from _selectors(node.lhs, grouped_by)
            yield from _selectors(node.rhs, grouped_by)
        case promql_parser.Call():
            for argument in node.args:
                yield from _selectors(argument, grouped_by)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _selectors(node.expr, grouped_by)
