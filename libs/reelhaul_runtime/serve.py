"""``reelhaul serve`` and ``migrate``: run services in this process until a signal, or migrate them.

Exit codes: 0 after a signal, once drained; 1 if a service failed; 2 if a setting is wrong, if what it names
cannot be used (an address in use, a database that does not answer), or if a package is missing.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click

from reelhaul_runtime import failpoints, logs, private_files, service, service_manager
from reelhaul_runtime.exit_codes import FAILED, OK, REFUSED
from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.metrics.process import serving_process_metrics
from reelhaul_runtime.rpc.experiments import set_experiments
from reelhaul_runtime.settings import ERRORS, InvalidSetting, SuiteSettings
from reelhaul_runtime.tracing.process import tracing
from reelhaul_runtime.unhandled_errors import log_unhandled_errors
from reelhaul_runtime.up import workers

log = logging.getLogger(__name__)

# Errors of files for which a restart does not help; a full disk is not among them.
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}

# Allocations, less deallocations, between two runs of the garbage collector (the default of 700 is for
# programs that start small), and how many runs of a generation come before one of the next. Calls that lived
# for long leave cycles in the oldest one: with the default of ten, 600,000 objects would wait there.
_GC_THRESHOLDS = (5_000, 5, 2)

# Seconds until a thread that waits for the interpreter lock gets it. A writer releases the lock at every step
# of its SQL: if a busy loop then kept it for the default of 5 ms, a batch would take a second.
_SWITCH_INTERVAL_SECONDS = 0.0001

_MAX_DESCRIPTORS = 65_536

# What a service may need beyond drain_seconds to close its connections.
_EXTRA_DRAIN_SECONDS = 5


def main(names: Sequence[str]) -> int:
    """Run the services called *names* until SIGTERM or SIGINT; return the exit code."""
    return service.check_settings(lambda: _run(names))


def migrate(names: Sequence[str]) -> int:
    """Migrate the databases of *names* (of all services, if empty) to this build's schema."""
    return service.check_settings(lambda: _migrate(names))


def _run(names: Sequence[str]) -> int:
    os.umask(private_files.UMASK)
    settings = SuiteSettings()
    if not settings.suite_token:
        raise InvalidSetting(
            "REELHAUL_SUITE_TOKEN is not set: services authenticate to each other with it."
            " Give all of them the same secret, for example of `openssl rand -hex 32`"
        )
    logs.configure("+".join(names), settings.log_format, settings.log_level, bodies=settings.log_bodies)
    log_unhandled_errors()
    failpoints.arm(failpoints.parse(settings.failpoints))
    if settings.data_dir.exists():
        try:
            private_files.make_data_dir_private(settings.data_dir)
        except OSError as error:
            raise InvalidSetting(f"REELHAUL_DATA_DIR: {private_files.describe_data_dir(error)}") from error
    set_experiments(os.environ)
    # It would look for garbage dozens of times in what is being loaded.
    gc.disable()
    try:
        services = [service.load(name) for name in names]
    except KeyError as error:
        return _report_unknown_service(error)
    except ImportError as error:
        return _report_missing_package(", ".join(names), error)
    finally:
        gc.enable()
    if (count := _count_workers(services)) > 1:
        return workers.run(services[0].name, count, settings)
    _raise_descriptor_limit()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(services, settings))


def _count_workers(services: Sequence[service.Service]) -> int:
    """Return how many processes *services* need. Raises InvalidSetting if they cannot have so many."""
    counts = [each.count_workers() for each in services if each.count_workers is not None]
    if max(counts, default=1) > 1 and len(services) > 1:
        name = next(each.name for each in services if each.count_workers is not None)
        raise InvalidSetting(f"REELHAUL_{name.upper()}_WORKERS: to have several workers, serve {name} alone")
    return max(counts, default=1)


async def _serve(services: Sequence[service.Service], settings: SuiteSettings) -> int:
    """Run *services* until a signal; they stop in reverse order."""
    shutdown = _Shutdown(settings.drain_seconds)
    try:
        async with AsyncExitStack() as stack:
            # Before the services and until they have ended, so that a start and a drain are seen.
            names = [each.name for each in services]
            await stack.enter_async_context(serving_process_metrics(names, settings))
            start_tracing = await stack.enter_async_context(tracing(settings, "+".join(names)))
            for each in services:
                shutdown.starting = each.name
                await stack.enter_async_context(each.running())
            shutdown.starting = ""
            start_tracing()
            _tune_garbage_collector()
            service_manager.notify(service_manager.READY)
            await shutdown.requested.wait()
            service_manager.notify(service_manager.STOPPING)
            log.info("draining")
    except ERRORS:
        raise
    except asyncio.CancelledError:
        return OK if shutdown.requested.is_set() else FAILED
    except AddressUnavailable as error:
        raise InvalidSetting(f"REELHAUL_{shutdown.starting.upper()}_{error.setting}: {error}") from error
    except ImportError as error:
        return _report_missing_package(shutdown.starting, error)
    except Exception as error:
        if shutdown.starting and isinstance(error, OSError) and _is_unusable(error, settings.data_dir):
            raise InvalidSetting(f"REELHAUL_DATA_DIR: {private_files.describe_data_dir(error)}") from error
        what = f"{shutdown.starting} could not start" if shutdown.starting else "a service failed"
        trace = not shutdown.starting or log.isEnabledFor(logging.DEBUG)
        log.error("%s: %s", what, _describe(error), exc_info=trace)
        return FAILED
    return OK


def _raise_descriptor_limit() -> None:
    """Raise the limit of open files, because a burst of connections is accepted before any is refused."""
    current, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_DESCRIPTORS if maximum == resource.RLIM_INFINITY else min(maximum, _MAX_DESCRIPTORS)
    if current != resource.RLIM_INFINITY and current < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, maximum))


def _tune_garbage_collector() -> None:
    """Exclude what was loaded at start from collections, and collect less often.

    Most garbage of requests has no cycles: reference counting frees it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class _Shutdown:
    """Handles signals: the first SIGTERM or SIGINT requests a drain, the second ends the process at once."""

    def __init__(self, drain_seconds: float) -> None:
        self.requested = asyncio.Event()
        #: The service that is starting now, empty when all have started.
        self.starting = ""
        self._limit_seconds = int(drain_seconds) + _EXTRA_DRAIN_SECONDS
        self._serving = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self.requested.is_set():
            os._exit(128 + number)
        self.requested.set()
        # This ends even a loop that hangs while it drains: nothing handles SIGALRM.
        signal.alarm(self._limit_seconds)
        if self.starting and self._serving is not None:
            self._serving.cancel()


def _migrate(names: Sequence[str]) -> int:
    os.umask(private_files.UMASK)
    settings = SuiteSettings()
    logs.configure("migrate", settings.log_format, settings.log_level)
    log_unhandled_errors()
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        services = [service.load(name) for name in names or service.names()]
    except KeyError as error:
        return _report_unknown_service(error)
    for each in services:
        if each.migrate is None:
            continue
        try:
            each.migrate()
        except ERRORS:
            raise
        except Exception as error:
            log.error("%s could not migrate: %s", each.name, _describe(error), exc_info=True)
            return FAILED
        if "log_format" in settings.model_fields_set and settings.log_format == "json":
            log.info("the schema is this build's", extra={"package": each.name})
        else:
            click.echo(f"{each.name}: the schema is this build's")
    return OK


def _report_unknown_service(error: KeyError) -> int:
    installed = ", ".join(service.names()) or "none"
    service.report_failure(f"there is no service {error.args[0]!r}; installed are: {installed}")
    return REFUSED


def _report_missing_package(names: str, error: ImportError) -> int:
    text = (
        f"{names} cannot run: {error}: install what is missing, for example with pip install 'reelhaul[all]'"
    )
    service.report_failure(text)
    return REFUSED


def _is_unusable(error: OSError, data_dir: Path) -> bool:
    """Return whether *error* means that *data_dir* or a file in it cannot be used."""
    if error.errno not in _UNUSABLE or error.filename is None:
        return False
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(data_dir.absolute())


def _describe(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):  # task groups wrap errors
        return "; ".join(_describe(each) for each in error.exceptions)
    return str(error) or type(error).__name__


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory if it is installed (an extra of the gateway), else None."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
