"""Unhandled errors: exceptions that nothing catches, warnings of Python and crashes, in the log."""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
from types import TracebackType

log = logging.getLogger(__name__)


def log_unhandled_errors() -> None:
    """Log, from now on, what Python would print to standard error by itself.

    After a crash of native code the stack goes to standard error as it is: the process can do no more. A
    supervisor (`reelhaul up`, the service manager) makes lines of its log of it.
    """
    faulthandler.enable()
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("the process ends with an exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    name = arguments.thread.name if arguments.thread is not None else ""
    log.error("a thread ended with an exception", extra={"thread_name": name}, exc_info=error)


def _log_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    message = arguments.err_msg or "exception ignored in"
    log.error("%s: %.200r", message, arguments.object, exc_info=arguments.exc_value)
