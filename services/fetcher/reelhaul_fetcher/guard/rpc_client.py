"""The fetcher's end of the channel to one guard process: orders out, answers and counts in."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

#: Called with a pass's name and what it has used, whenever that changed.
Reported = Callable[[str, Mapping[str, Any]], None]


class GuardAway(ConnectionError):
    """The guard died, or does not answer; it is being started again."""


class Channel:
    """One run of the guard's process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reported: Reported,
    ) -> None:
        self._process = process
        self._writer = writer
        self._reported = reported
        self._answers: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._orders = 0
        self._listening = asyncio.create_task(self._listen(reader))

    @classmethod
    async def start(cls, config: Mapping[str, Any], listener: socket.socket, reported: Reported) -> Channel:
        """A guard that accepts on *listener*. Raises ``GuardAway`` if it does not come up."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), listener.fileno())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "reelhaul_fetcher.guard", *map(str, descriptors)),
                pass_fds=descriptors,
                stdin=asyncio.subprocess.DEVNULL,
                # It speaks with hostile sites and needs none of our secrets.
                env={name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")},
            )
        channel = cls(process, *await asyncio.open_connection(sock=ours, limit=1 << 20), reported)
        try:
            await channel.order("configure", config)
        except BaseException:
            await channel.stop()
            raise
        return channel

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def order(self, do: str, details: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have the guard *do* something; its answer. Raises ``GuardAway``."""
        if self._writer.is_closing() or self._listening.done():
            raise GuardAway("the guard is gone")
        self._orders += 1
        number = self._orders
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(json.dumps({"id": number, "do": do, **details}).encode() + b"\n")
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await answer
        except TimeoutError:
            # Alive but stuck is no better than dead; the next one starts fresh.
            self.kill()
            raise GuardAway("the guard does not answer") from None
        finally:
            del self._answers[number]

    async def ended(self) -> int:
        """The exit code, once the process has ended."""
        code = await self._process.wait()
        await self._listening
        return code

    def kill(self) -> None:
        """End the process at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Close the channel, at which the guard ends, and wait for that."""
        self._writer.close()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self.ended()
        except TimeoutError:
            self.kill()
            await self.ended()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "pass" in message:
                    self._reported(message["pass"], message["used"])
                elif (answer := self._answers.get(message["id"])) and not answer.done():
                    answer.set_result(message)
        except ConnectionError:
            pass
        finally:
            self._writer.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(GuardAway("the guard died"))


_PATIENCE_SECONDS = 5.0
