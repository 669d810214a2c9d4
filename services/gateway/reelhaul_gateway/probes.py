"""Probes: /healthz looks at this process only, /readyz at all that it leans on."""

from __future__ import annotations

import orjson

from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul_gateway.health import Health
from reelhaul_transcoding.http.asgi import Receive, Scope, Send, respond

PATHS = frozenset({"/healthz", "/readyz"})


class Probes:
    """Answers load balancers and supervisors, in JSON and without a credential."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET and HEAD of one of PATHS."""
        if scope["method"] not in ("GET", "HEAD"):
            await respond(send, 405, [(b"allow", b"GET, HEAD")], b"{}")
        elif scope["path"] == "/healthz":
            await respond(send, 200, [], b'{"status":"SERVING"}')
        else:
            await self._readiness(send)

    async def _readiness(self, send: Send) -> None:
        ready = await self._health.ready()
        services = {finding.name: _word(finding.status) for finding in await self._health.cached_status()}
        told = {"status": "SERVING" if ready else "NOT_SERVING", "services": services}
        await respond(send, 200 if ready else 503, [], orjson.dumps(told))


def _word(status: ServingStatus.ValueType) -> str:
    return ServingStatus.Name(status).removeprefix("SERVING_STATUS_")
