"""Schemas of Kubernetes and of custom resources, strict: a field that they do not have is an error."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema

#: The version that the manifests are checked with; docs/kubernetes.md names the oldest one.
VERSION = "1.31"

# Custom resources of which a package has the schema.
_MODELS = {
    ("keda.sh/v1alpha1", "ScaledObject"): "cloudcoil.models.keda.v1alpha1",
    ("cert-manager.io/v1", "Certificate"): "cloudcoil.models.cert_manager.v1",
    ("cert-manager.io/v1", "Issuer"): "cloudcoil.models.cert_manager.v1",
    ("monitoring.coreos.com/v1", "PodMonitor"): "cloudcoil.models.prometheus_operator.v1",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "cloudcoil.models.prometheus_operator.v1",
}
# The others: the fields that deploy/k8s uses, as their references describe them.
_OWN = Path(__file__).with_name("custom_resources.json")


def find_errors(resource: dict[str, Any]) -> list[str]:
    """Return what is wrong with *resource*; empty if it is valid."""
    key = resource["apiVersion"], resource["kind"]
    own = _own_schemas()
    if schema := own.get("/".join(key)):
        return _check(schema, resource)
    if key in _MODELS:
        return _check(_model_schema(*key), resource)
    return _check_builtin(resource)


def _check(schema: dict[str, Any], resource: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [
        f"{'.'.join(map(str, each.absolute_path))}: {each.message}"
        for each in validator.iter_errors(resource)
    ]


def _check_builtin(resource: dict[str, Any]) -> list[str]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"no schema of {resource['apiVersion']} {resource['kind']}"]
    return []


@cache
def _own_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = json.loads(_OWN.read_text())
    return {name: _close(schema) for name, schema in schemas.items()}


@cache
def _model_schema(version: str, kind: str) -> dict[str, Any]:
    model = getattr(import_module(_MODELS[version, kind]), kind)
    schema: dict[str, Any] = _close(model.model_json_schema(by_alias=True))
    return schema


def _close(schema: Any) -> Any:
    """Return *schema* in which no object may have properties that it does not name."""
    if isinstance(schema, list):
        return [_close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _close(value) for name, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and "type" in closed:
        closed.setdefault("additionalProperties", False)
    return closed
