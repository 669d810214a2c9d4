"""Log levels that are changed while the process runs, for a time."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import timedelta

from reelhaul.system.v1.system_service_pb2 import LogLevel, SetLogLevelRequest
from reelhaul_runtime.errors import FieldInvalid

log = logging.getLogger(__name__)

_LEVELS = {
    LogLevel.LOG_LEVEL_DEBUG: logging.DEBUG,
    LogLevel.LOG_LEVEL_INFO: logging.INFO,
    LogLevel.LOG_LEVEL_WARNING: logging.WARNING,
    LogLevel.LOG_LEVEL_ERROR: logging.ERROR,
}
# Loggers whose level may change: those of libraries log headers, signatures and statements with secrets.
_LOGGER = re.compile(r"reelhaul\w*(\.\w+)*", re.ASCII)
_MAX_LOGGER_LENGTH = 200
# Loggers changed at a time. Python keeps each logger whose name was ever used, ours or made up, for good.
_MAX_CHANGED = 100
_DEFAULT_SECONDS, _MAX_DURATION = 600.0, timedelta(hours=24)


def check_request(request: SetLogLevelRequest) -> float:
    """Return for how many seconds the level of *request* is to hold. Raises FIELD_INVALID."""
    if request.level not in LogLevel.values():
        raise FieldInvalid("level", f"must be one of {', '.join(LogLevel.keys()[1:])}")
    logger = request.logger
    if logger and (len(logger) > _MAX_LOGGER_LENGTH or not _LOGGER.fullmatch(logger)):
        raise FieldInvalid("logger", 'must be one of ours, for example "reelhaul_jobs.service"')
    if not request.HasField("duration"):
        return _DEFAULT_SECONDS
    duration = request.duration
    if duration.seconds < 0 or duration.nanos < 0 or duration.seconds > _MAX_DURATION.total_seconds():
        raise FieldInvalid("duration", "must be from 0 to 86400 seconds")
    return duration.seconds + duration.nanos / 1e9


class LogLevels:
    """Changes the levels of the loggers of this process, each back after a time.

    Nothing survives the process: the next one has the level of its settings.
    """

    def __init__(self) -> None:
        #: By the name of a changed logger: its level before, and the timer that restores it.
        self._changed: dict[str, tuple[int, asyncio.TimerHandle]] = {}

    def apply(self, logger: str, level: LogLevel.ValueType, seconds: float) -> None:
        """Change the level of *logger* for *seconds*, or restore it if *level* is unspecified.

        Raises FIELD_INVALID if too many are changed.
        """
        if level == LogLevel.LOG_LEVEL_UNSPECIFIED:
            self.restore(logger)
        else:
            self.change(logger, _LEVELS[level], seconds)

    def change(self, logger: str, level: int, seconds: float) -> None:
        """Log *logger* (empty: all of ours that have no level of their own) from *level* on for *seconds*.

        What is below it logs so too. A second change replaces the first one. Raises FIELD_INVALID.
        """
        if logger not in self._changed and len(self._changed) >= _MAX_CHANGED:
            text = f"is one too many: {_MAX_CHANGED} are changed; reset some, or change one above them"
            raise FieldInvalid("logger", text)
        before, timer = self._changed.get(logger, (logging.getLogger(logger).level, None))
        if timer is not None:
            timer.cancel()
        timer = asyncio.get_running_loop().call_later(seconds, self.restore, logger)
        self._changed[logger] = before, timer
        # Warnings are logged whatever the levels are, and before this one perhaps no more.
        extra = {"changed_logger": logger, "new_level": logging.getLevelName(level), "seconds": seconds}
        log.warning("log level changed", extra=extra)
        logging.getLogger(logger).setLevel(level)

    def restore(self, logger: str) -> None:
        """Give *logger* the level back that it had before it was changed; do nothing if it was not."""
        if logger in self._changed:
            before, timer = self._changed.pop(logger)
            timer.cancel()
            changed = logging.getLogger(logger)
            changed.setLevel(before)
            level = logging.getLevelName(changed.getEffectiveLevel())
            log.warning("log level restored", extra={"changed_logger": logger, "new_level": level})
