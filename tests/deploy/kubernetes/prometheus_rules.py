"""The rules of Prometheus as a resource of its operator.

``python -m tests.deploy.kubernetes.prometheus_rules`` writes it: kustomize reads no files outside its folder.
"""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy/observability/prometheus/rules"
_HEAD = """\
# Written by `python -m tests.deploy.kubernetes.prometheus_rules` from deploy/observability/prometheus/rules.
"""
RESOURCE = ROOT / "deploy/k8s/components/monitoring/rules.yaml"


def build() -> str:
    """Return one PrometheusRule with the groups of all files, as YAML."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "reelhaul"},
        "spec": {
            "groups": [
                group
                for file in sorted(RULES.glob("*.yml"))
                for group in yaml.safe_load(file.read_text())["groups"]
            ]
        },
    }
    return _HEAD + yaml.safe_dump(resource, sort_keys=False, width=120)


if __name__ == "__main__":
    RESOURCE.write_text(build())
