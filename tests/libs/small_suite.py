"""A supervisor over parts that a test describes: python small_suite.py FOLDER STYLE PATIENCE PARTS (JSON)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from reelhaul_runtime import logs
from reelhaul_runtime.up import data_dir, log_multiplexer
from reelhaul_runtime.up.process_supervisor import Patience
from reelhaul_runtime.up.suite import Suite
from reelhaul_runtime.up.suite_processes import Part

folder, style = data_dir.run_folder(Path(sys.argv[1])), sys.argv[2]
patience, parts = Patience(**json.loads(sys.argv[3])), [Part(**part) for part in json.loads(sys.argv[4])]


async def main(told: log_multiplexer.Lines) -> int:
    return await Suite(parts, folder, patience, told).run()


with (
    data_dir.locked(folder),
    log_multiplexer.to_stderr("text" if style == "text" else "json", "INFO") as told,
):
    logs.configure("up", "json", "INFO", stream=log_multiplexer.Stream("up", told))
    sys.exit(asyncio.run(main(told)))
