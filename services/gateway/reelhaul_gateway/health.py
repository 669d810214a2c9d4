"""Probes of the gateway: /healthz and /readyz."""

from __future__ import annotations

from typing import Any

import orjson

from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul_runtime.system.health import Health
from reelhaul_transcoding.errors import MethodNotAllowed
from reelhaul_transcoding.http.asgi import Receive, Scope, Send, send_response
from reelhaul_transcoding.http.status import StatusWriter

PROBE_PATHS = frozenset({"/healthz", "/readyz"})


class ProbeEndpoints:
    """Answers load balancers and supervisors in JSON, without authentication.

    /healthz (liveness) looks only at this process, /readyz (readiness) at all services.
    """

    def __init__(self, health: Health, statuses: StatusWriter) -> None:
        self._health, self._statuses = health, statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request of one of PROBE_PATHS; its query is ignored."""
        if scope["method"] not in ("GET", "HEAD"):
            error = MethodNotAllowed(scope["method"], scope["path"], ("GET", "HEAD"))
            await self._statuses.send_error(send, error)
        elif scope["path"] == "/healthz":
            await send_response(send, 200, [], b'{"status":"SERVING"}')
        else:
            await self._respond_readiness(send)

    async def _respond_readiness(self, send: Send) -> None:
        ready = await self._health.is_ready()
        services = {result.name: _short_name(result.status) for result in await self._health.cached_status()}
        body: dict[str, Any] = {"status": "SERVING" if ready else "NOT_SERVING", "services": services}
        if self._health.wanted_workers > 1:
            body["workers"] = {"ready": self._health.ready_workers, "wanted": self._health.wanted_workers}
        await send_response(send, 200 if ready else 503, [], orjson.dumps(body))


def _short_name(status: ServingStatus.ValueType) -> str:
    return ServingStatus.Name(status).removeprefix("SERVING_STATUS_")
