"""The shipped rules of Prometheus, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from tests.observability.expressions import OBSERVABILITY

RULES = sorted((OBSERVABILITY / "prometheus/rules").glob("*.yml"))
UNIT_TESTS = sorted((OBSERVABILITY / "prometheus/tests").glob("*.yml"))


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule."""

    name: str
    expression: str
    severity: str
    annotations: Mapping[str, str]


@cache
def all_rules() -> list[dict[str, Any]]:
    """Return all rules, recording and alerting."""
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[Alert]:
    """Return the alerting rules."""
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"]["severity"], rule["annotations"])
        for rule in all_rules()
        if "alert" in rule
    ]


def records() -> frozenset[str]:
    """Return the names that recording rules define."""
    return frozenset(rule["record"] for rule in all_rules() if "record" in rule)
