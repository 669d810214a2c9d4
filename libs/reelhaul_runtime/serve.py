"""Serving in this process: from settings to the last goodbye, with exit codes that tell which failed.

0: drained after a signal. 1: a service failed. 2: a setting is wrong.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from reelhaul_runtime import failpoints, logs, service
from reelhaul_runtime.settings import SuiteSettings, describe_errors

log = logging.getLogger(__name__)

OK, FAILED, REFUSED = 0, 1, 2

# Objects made, less those gone, before the collector looks: 700 is for programs that begin small.
_YOUNGEST = 5_000

# Seconds until a thread that asks for the interpreter is given it. A writer gives it up at every step
# of its SQL; where a busy loop then keeps it for the usual five milliseconds, a batch takes a second.
_SWITCH_SECONDS = 0.0001

# What a service may need beyond drain_seconds to close its connections.
_LAST_WORDS_SECONDS = 5


def main(names: Sequence[str]) -> int:
    """Run the services called *names* until SIGTERM or SIGINT; returns the exit code."""
    return _settled(lambda: _run(names))


def migrate(names: Sequence[str]) -> int:
    """Bring the databases of *names* (of all services, where empty) to this build's schema."""
    return _settled(lambda: _migrate(names))


def _settled(work: Callable[[], int]) -> int:
    """The exit code of *work*; wrong settings and unknown services become a line each."""
    try:
        return work()
    except (ValidationError, SettingsError) as error:
        for line in describe_errors(error):
            click.echo(f"reelhaul: {line}", err=True)
        return REFUSED


def _run(names: Sequence[str]) -> int:
    settings = SuiteSettings()
    logs.configure("+".join(names), settings.log_format, settings.log_level)
    failpoints.arm(failpoints.parse(settings.failpoints))
    try:
        found = [service.find(name) for name in names]
    except KeyError as error:
        return _unknown(error)
    except ImportError:
        log.exception("%s cannot be loaded", ", ".join(names))
        return FAILED
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_served(found, settings.drain_seconds))


async def _served(services: Sequence[service.Service], drain_seconds: float) -> int:
    """Run *services* until a signal; they leave in reverse order."""
    stop = _Stop(drain_seconds)
    try:
        async with AsyncExitStack() as stack:
            for each in services:
                stop.starting = each.name
                await stack.enter_async_context(each.running())
            stop.starting = ""
            _settle_garbage()
            await stop.asked.wait()
            log.info("draining")
    except (ValidationError, SettingsError):
        raise
    except asyncio.CancelledError:
        return OK if stop.asked.is_set() else FAILED
    except Exception as error:
        what = f"{stop.starting} could not start" if stop.starting else "a service failed"
        trace = not stop.starting or log.isEnabledFor(logging.DEBUG)
        log.error("%s: %s", what, log_settings_error(error), exc_info=trace)
        return FAILED
    return OK


def _settle_garbage() -> None:
    """Spare the collector what was loaded for good: it would look through all of it again and again.

    Requests make their garbage without cycles, mostly: that is gone by itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNGEST)


class _Stop:
    """The wish to end: the first SIGTERM or SIGINT asks, the second ends the process at once."""

    def __init__(self, drain_seconds: float) -> None:
        self.asked = asyncio.Event()
        #: The service that is starting now, empty when all have.
        self.starting = ""
        self._limit = int(drain_seconds) + _LAST_WORDS_SECONDS
        self._serving = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self.asked.is_set():
            os._exit(128 + number)
        self.asked.set()
        # Even a loop that hangs while it drains ends: nobody catches SIGALRM.
        signal.alarm(self._limit)
        if self.starting and self._serving is not None:
            self._serving.cancel()


def _migrate(names: Sequence[str]) -> int:
    settings = SuiteSettings()
    logs.configure("migrate", settings.log_format, settings.log_level)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        found = [service.find(name) for name in names or service.names()]
    except KeyError as error:
        return _unknown(error)
    for each in found:
        if each.migrate is None:
            continue
        try:
            each.migrate()
        except (ValidationError, SettingsError):
            raise
        except Exception as error:
            log.error("%s could not migrate: %s", each.name, log_settings_error(error), exc_info=True)
            return FAILED
        click.echo(f"{each.name}: the schema is this build's")
    return OK


def _unknown(error: KeyError) -> int:
    known = ", ".join(service.names()) or "none"
    click.echo(f"reelhaul: there is no service {error.args[0]!r}; installed are: {known}", err=True)
    return REFUSED


def log_settings_error(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):  # task groups wrap what went wrong
        return "; ".join(log_settings_error(each) for each in error.exceptions)
    return str(error) or type(error).__name__


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed: an extra of the gateway, no need of anyone's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
