"""Health: grpc.health.v1 as HTTP statuses."""

from __future__ import annotations

_SERVING, _SERVICE_UNKNOWN = 1, 3


def http_status_of_health(serving_status: int) -> int:
    """200 while SERVING, 404 for a service that is not known, else 503.

    *serving_status* is a grpc.health.v1.HealthCheckResponse.ServingStatus. A Check that
    failed has the status of its code.
    """
    return {_SERVING: 200, _SERVICE_UNKNOWN: 404}.get(serving_status, 503)
