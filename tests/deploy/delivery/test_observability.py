"""The rules of deploy/observability by Prometheus's own tools; ``make test`` runs these tests too."""

from __future__ import annotations

import pytest
from tests.observability.conftest import programs
from tests.observability.test_alert_rules import test_alerts_fire, test_rules_are_valid

__all__ = ["programs", "test_alerts_fire", "test_rules_are_valid"]

pytestmark = pytest.mark.deployment
