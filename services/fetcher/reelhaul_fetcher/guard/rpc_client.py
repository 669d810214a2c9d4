"""The fetcher's side of the RPC channel to one guard process: starts it, calls it, receives usage reports."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_runtime.child_process import environment_without_settings, logged_stderr, module_command
from reelhaul_runtime.errors import Unavailable

#: Called with a session's name and usage whenever the usage has changed.
OnUsage = Callable[[str, Usage], None]

_CALL_TIMEOUT_SECONDS = 5.0


class GuardUnavailable(Unavailable):
    """The guard died or does not answer; it is being restarted."""

    def __init__(self, text: str) -> None:
        super().__init__("guard", text)


class GuardClient:
    """One run of the guard's process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_usage: OnUsage,
    ) -> None:
        self._process = process
        self._writer = writer
        self._on_usage = on_usage
        self._responses: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._last_id = 0
        self._receiving = asyncio.create_task(self._receive(reader))

    @classmethod
    async def start(
        cls, config: Mapping[str, Any], listener: socket.socket, on_usage: OnUsage
    ) -> GuardClient:
        """Start a guard that accepts on *listener*. Raises ``GuardUnavailable`` if it does not come up."""
        ours, theirs = socket.socketpair()
        with theirs, logged_stderr("guard") as stderr:
            descriptors = (theirs.fileno(), listener.fileno())
            process = await asyncio.create_subprocess_exec(
                *module_command("reelhaul_fetcher.guard", *map(str, descriptors)),
                pass_fds=descriptors,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                # It talks to hostile sites and needs none of the suite's secrets.
                env=environment_without_settings(),
            )
        client = cls(process, *await asyncio.open_connection(sock=ours, limit=1 << 20), on_usage)
        try:
            await client.call("configure", config)
        except BaseException:
            await client.stop()
            raise
        return client

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def call(self, method: str, params: Mapping[str, Any]) -> Usage | None:
        """Call *method*; return the usage in the response, if there is one. Raises ``GuardUnavailable``."""
        if self._writer.is_closing() or self._receiving.done():
            raise GuardUnavailable("the guard is gone")
        self._last_id += 1
        request_id = self._last_id
        response: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._responses[request_id] = response
        self._writer.write(json.dumps({"id": request_id, "method": method, **params}).encode() + b"\n")
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
                usage = (await response).get("usage")
        except TimeoutError:
            # A stuck guard is no better than a dead one: replace it.
            self.kill()
            raise GuardUnavailable("the guard does not answer") from None
        finally:
            del self._responses[request_id]
        return Usage.from_json(usage) if usage else None

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit code."""
        code = await self._process.wait()
        await self._receiving
        return code

    def kill(self) -> None:
        """Kill the process."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Close the channel, which ends the guard, and wait for that."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
                await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "session" in message:
                    self._on_usage(message["session"], Usage.from_json(message["usage"]))
                elif (response := self._responses.get(message["id"])) and not response.done():
                    response.set_result(message)
        except ConnectionError:
            pass
        finally:
            self._writer.close()
            for response in self._responses.values():
                if not response.done():
                    response.set_exception(GuardUnavailable("the guard died"))
