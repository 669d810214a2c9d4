"""Client on another host: ``python -m tests.suite.network_client`` calls a suite in every way it offers.

Reads its task as JSON from its input, and prints what it got as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import websockets
from grpc import aio

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc


class Client:
    """Calls the suite through the proxy at *address*, which has the certificate of *name*."""

    def __init__(self, address: str, name: str, ca: Path, key: str, grpc_address: str) -> None:
        self._address, self._name, self._key, self._grpc_address = address, name, key, grpc_address
        self._authority = ca.read_bytes()
        self._trust = ssl.create_default_context(cadata=self._authority.decode())

    async def run(self, media: str) -> dict[str, Any]:
        """Download *media*; return what every way of calling returned."""
        job, *events = await self.download(media)
        return {
            "events": events,
            "websocket": await self.watch(job),
            "grpc": await self.list_jobs(f"Bearer {self._key}"),
            "grpc without TLS": await self.list_jobs(f"Bearer {self._key}", direct=True),
            "grpc without a key": await self.list_jobs(""),
            "grpc without TLS and a key": await self.list_jobs("", direct=True),
            "without a key": await self.get("/v1/jobs", authorization=""),
            "with a wrong key": await self.get("/v1/jobs", authorization=f"Bearer {self._key[:-1]}"),
            "with another host": await self.get("/v1/jobs", host="evil.example"),
            "by PROXY protocol": await self.get("/v1/jobs", request_id="by-proxy-protocol", port=8444),
        }

    async def download(self, media: str) -> list[str]:
        """Create a job and follow its events; return its id and the kinds of its events."""
        async with self._http() as client:
            response = await client.post("/api/v1/download", json={"url": media})
            job = response.raise_for_status().json()["job_id"]
            headers = {"accept": "text/event-stream"}
            kinds = []
            async with client.stream("GET", f"/api/v1/progress/{job}", headers=headers) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        kinds += json.loads(line.removeprefix("data:")).keys() & {"completed", "failed"}
                    if kinds:
                        break
        return [job, *kinds]

    async def watch(self, job: str) -> int:
        """Watch *job* over a WebSocket until it is closed; return the code of its end."""
        encoded_key = base64.urlsafe_b64encode(self._key.encode()).decode()
        async with websockets.connect(
            f"wss://{self._name}/v1/jobs/{job}:watch",
            host=self._address.partition(":")[0],
            port=int(self._address.partition(":")[2]),
            ssl=self._trust,
            subprotocols=[websockets.Subprotocol(f"reelhaul.key.{encoded_key.rstrip('=')}")],
            proxy=None,
        ) as websocket:
            async for _ in websocket:
                pass
            return int(websocket.close_code or 0)

    async def list_jobs(self, authorization: str, *, direct: bool = False) -> str:
        """List jobs over gRPC, through the proxy or at the service itself; return the name of the status."""
        if direct:
            channel = aio.insecure_channel(self._grpc_address)
        else:
            credentials = grpc.ssl_channel_credentials(self._authority)
            options = [("grpc.ssl_target_name_override", self._name)]
            channel = aio.secure_channel(self._address, credentials, options)
        metadata: Sequence[tuple[str, str]] = [("authorization", authorization)] if authorization else []
        async with channel:
            try:
                await job_service_pb2_grpc.JobServiceStub(channel).ListJobs(
                    job_service_pb2.ListJobsRequest(), timeout=20, metadata=metadata
                )
            except aio.AioRpcError as error:
                return str(error.code().name)
        return "OK"

    async def get(
        self,
        path: str,
        *,
        authorization: str | None = None,
        host: str | None = None,
        request_id: str = "",
        port: int | None = None,
    ) -> int:
        """Get *path*; return the status."""
        headers = {"host": host or self._name, "x-request-id": request_id or "of-the-client"}
        if authorization is not None:
            headers["authorization"] = authorization
        async with self._http(port) as client:
            return (await client.get(path, headers=headers)).status_code

    def _http(self, port: int | None = None) -> httpx.AsyncClient:
        address = f"{self._address.partition(':')[0]}:{port}" if port else self._address
        headers = {"authorization": f"Bearer {self._key}", "host": self._name}
        client = httpx.AsyncClient(
            base_url=f"https://{address}", headers=headers, verify=self._trust, trust_env=False, timeout=60
        )
        client.event_hooks["request"].append(self._set_name)
        return client

    async def _set_name(self, request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = self._name


async def _main() -> None:
    task = json.load(sys.stdin)
    client = Client(task["address"], task["name"], Path(task["ca"]), task["key"], task["grpc_address"])
    print(json.dumps(await client.run(task["media"])))


if __name__ == "__main__":
    asyncio.run(_main())
