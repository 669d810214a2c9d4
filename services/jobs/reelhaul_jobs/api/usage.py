"""Conversion of the use of quotas for ApiKeyService and TenantService."""

from __future__ import annotations

from collections.abc import Sequence

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.service.quotas import Metric

_SUFFIX = "/usage"


def parent_of(name: str) -> str:
    """Return the name of the key or the tenant whose usage *name* is."""
    return name.removesuffix(_SUFFIX)


def usage_to_proto(parent: str, metrics: Sequence[Metric]) -> api_key_pb2.Usage:
    """Return the usage of the key or the tenant with the name *parent*."""
    usage = api_key_pb2.Usage(name=f"{parent}{_SUFFIX}")
    for metric in metrics:
        usage.metrics.add(
            quota_metric=metric.name,
            used=metric.used,
            limit=metric.limit,
            reset_time=fields.to_timestamp(metric.reset_time),
        )
    return usage
