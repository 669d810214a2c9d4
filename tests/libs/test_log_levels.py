"""Log levels that are changed while a process runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration

from reelhaul.system.v1.system_service_pb2 import LogLevel, SetLogLevelRequest
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.log_levels import LogLevels, check_request

NAME = "reelhaul_runtime.of_a_test"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger with the level INFO."""
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)


class Restored(logging.Handler):
    """Signals that a level was restored."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "log level restored":
            self.event.set()


async def test_level_is_changed_for_a_time(logger: logging.Logger):
    """After its time a logger has the level that it had first, however often it was changed since."""
    levels, restored = LogLevels(), Restored()
    logging.getLogger("reelhaul_runtime.log_levels").addHandler(restored)
    try:
        levels.change(NAME, logging.ERROR, 3600)
        assert logger.level == logging.ERROR
        levels.change(NAME, logging.DEBUG, 0.01)
        assert logger.level == logging.DEBUG
        async with asyncio.timeout(10):
            await restored.event.wait()
    finally:
        logging.getLogger("reelhaul_runtime.log_levels").removeHandler(restored)
    assert logger.level == logging.INFO


async def test_level_is_restored_at_once(logger: logging.Logger):
    """Without a level the one of the settings is back at once; what was not changed stays as it is."""
    levels = LogLevels()
    levels.apply(NAME, LogLevel.LOG_LEVEL_WARNING, 3600)
    assert logger.level == logging.WARNING
    levels.apply(NAME, LogLevel.LOG_LEVEL_UNSPECIFIED, 0)
    levels.apply(NAME, LogLevel.LOG_LEVEL_UNSPECIFIED, 0)
    assert logger.level == logging.INFO


async def test_changed_loggers_are_limited(logger: logging.Logger):
    """Names of loggers are made up at will: a hundred are changed at a time, and those may change again."""
    levels = LogLevels()
    levels.change(NAME, logging.DEBUG, 3600)
    for number in range(99):
        levels.change(f"{NAME}.{number}", logging.DEBUG, 3600)
    with pytest.raises(FieldInvalid, match="100 are changed"):
        levels.change(f"{NAME}.more", logging.DEBUG, 3600)
    levels.change(NAME, logging.ERROR, 3600)
    for number in range(99):
        levels.restore(f"{NAME}.{number}")
    levels.change(f"{NAME}.more", logging.DEBUG, 3600)
    levels.restore(f"{NAME}.more")
    levels.restore(NAME)
    assert logger.level == logging.INFO


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        # Their lines have headers, signatures and statements.
        ("logger", SetLogLevelRequest(logger="botocore")),
        ("logger", SetLogLevelRequest(logger="root")),
        ("logger", SetLogLevelRequest(logger="reelhaul\nx")),
        ("logger", SetLogLevelRequest(logger="reelhaul" + "a" * 200)),
        ("level", SetLogLevelRequest(level=9)),
        ("duration", SetLogLevelRequest(duration=Duration(seconds=86_401))),
        ("duration", SetLogLevelRequest(duration=Duration(seconds=-1))),
    ],
)
def test_wrong_requests(field: str, request_: SetLogLevelRequest):
    """Only loggers of ours, known levels and up to a day are accepted; the refusal names the field."""
    with pytest.raises(FieldInvalid) as refused:
        check_request(request_)
    assert refused.value.metadata["field"] == field


def test_default_duration():
    """Without a duration a change lasts ten minutes."""
    assert check_request(SetLogLevelRequest(level=LogLevel.LOG_LEVEL_DEBUG)) == 600
    assert check_request(SetLogLevelRequest(duration=Duration(seconds=1, nanos=500_000_000))) == 1.5
