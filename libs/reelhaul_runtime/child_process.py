"""Child processes: commands and environments without settings, and what they write, line by line."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NoReturn

from reelhaul_runtime import service_manager

log = logging.getLogger(__name__)

# Our own lines are shorter (logs.py).
_MAX_LINE_BYTES = 256 * 1024
# What a child writes within this time is one line of the log, for example a traceback.
_BURST_SECONDS = 0.05
# Bytes of such a line, and lines per minute: a site may control the child.
_MAX_BURST_BYTES, _MAX_BURSTS_PER_MINUTE = 8 * 1024, 20
# The event loop keeps no reference to its tasks.
_reading: set[asyncio.Task[None]] = set()

#: Variables of OpenTelemetry, which services need beside their settings.
OPEN_TELEMETRY_PREFIX = "OTEL_"
# Variables of the suite, of boto3 (the credentials of storage's bucket), of OpenTelemetry (those of the
# collector), and of the service manager.
_SETTINGS_PREFIXES = ("REELHAUL_", "AWS_", OPEN_TELEMETRY_PREFIX, service_manager.SOCKET_VARIABLE)


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs *module* with this Python.

    With ``-m`` alone, a file of the working directory could shadow a module that is imported; ``-P`` leaves
    the directory out of the module search path. ``-I`` would ignore PYTHONPATH too, which operators may use.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def replace_process(module: str, *arguments: str) -> NoReturn:
    """Execute ``module_command`` in this process.

    It keeps its id, its environment, and the file descriptors that are inheritable.
    """
    command = module_command(module, *arguments)
    os.execv(command[0], command)  # noqa: S606 - there is no shell


def environment_without_settings() -> dict[str, str]:
    """Return the environment variables of this process except the suite's settings and secrets.

    PYTHONPATH keeps its absolute folders: an empty or relative one, as in
    ``PYTHONPATH=$PYTHONPATH:/opt/lib``, is one of the working directory.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIXES)}
    folders = filter(os.path.isabs, variables.pop("PYTHONPATH", "").split(os.pathsep))
    if python_path := os.pathsep.join(folders):
        variables["PYTHONPATH"] = python_path
    return variables


@contextmanager
def logged_stderr(process: str) -> Iterator[int]:
    """Yield a descriptor for the standard error of the child process called *process*.

    What the child and its own children write to it is logged. They do not expect to: it is of a crash, or of
    a library that prints.
    """
    read_end, write_end = os.pipe()
    task = asyncio.get_running_loop().create_task(_log_output(process, read_end))
    _reading.add(task)
    task.add_done_callback(_reading.discard)
    try:
        yield write_end
    finally:
        os.close(write_end)


async def _log_output(process: str, handle: int) -> None:
    extra = {"child": process}
    async with _open_reader(handle) as reader:
        minute, bursts = time.monotonic(), 0
        while burst := await _read_burst(reader):
            if time.monotonic() - minute >= 60:
                minute, bursts = time.monotonic(), 0
            bursts += 1
            if bursts <= _MAX_BURSTS_PER_MINUTE:
                output = burst.decode(errors="replace").strip()
                log.warning("a child process wrote to standard error", extra=extra | {"output": output})
            elif bursts == _MAX_BURSTS_PER_MINUTE + 1:
                log.warning("a child process writes too much: not logged for the next minute", extra=extra)


async def _read_burst(reader: asyncio.StreamReader) -> bytes:
    burst = await reader.read(_MAX_BURST_BYTES)
    with suppress(TimeoutError):
        async with asyncio.timeout(_BURST_SECONDS):
            while len(burst) < _MAX_BURST_BYTES and (more := await reader.read(_MAX_BURST_BYTES)):
                burst += more
    return burst[:_MAX_BURST_BYTES]


async def read_lines(handle: int, on_line: Callable[[bytes], None]) -> None:
    """Pass each line of the pipe *handle* to *on_line* until its end; lines of 256 KiB and more are split."""
    async with _open_reader(handle) as reader:
        while line := await _read_line(reader):
            on_line(line.rstrip(b"\r\n"))


@asynccontextmanager
async def _open_reader(handle: int) -> AsyncIterator[asyncio.StreamReader]:
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(handle, "rb", buffering=0)
    )
    try:
        yield reader
    finally:
        transport.close()


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        return await reader.read(_MAX_LINE_BYTES)
