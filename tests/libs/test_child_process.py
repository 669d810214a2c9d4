"""What child processes write to standard error is logged, within bounds."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from reelhaul_runtime.child_process import logged_stderr


async def run_child(code: str, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Run *code* as the child process "zygote" and return what is logged of it until its output ends."""
    with caplog.at_level(logging.WARNING, logger="reelhaul_runtime.child_process"):
        with logged_stderr("zygote") as stderr:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=stderr)
        (reading,) = asyncio.all_tasks() - {asyncio.current_task()}
        async with asyncio.timeout(30):
            await process.wait()
            await reading
    return caplog.records


async def test_traceback_is_one_line(caplog: pytest.LogCaptureFixture):
    """The traceback with which a child ends is one line of the log, with the name of the process."""
    (record,) = await run_child("int('bang')", caplog)
    assert vars(record)["child"] == "zygote"
    assert vars(record)["output"].startswith("Traceback (most recent call last):\n")
    assert vars(record)["output"].endswith("ValueError: invalid literal for int() with base 10: 'bang'")


async def test_crash_is_logged(caplog: pytest.LogCaptureFixture):
    """Of a crash in native code the log has the stack."""
    (record,) = await run_child(
        "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)", caplog
    )
    assert "Fatal Python error: Segmentation fault" in vars(record)["output"]


async def test_flood_is_bounded(caplog: pytest.LogCaptureFixture):
    """A child that writes without end fills no log: twenty lines of 8 KiB per minute, and that it is so."""
    records = await run_child("import os\nfor _ in range(3000): os.write(2, b'x' * 999 + b'\\n')", caplog)
    assert len(records) == 21
    assert "writes too much" in records[-1].getMessage()
    assert max(len(vars(record).get("output", "")) for record in records) <= 8192
