"""A supervisor over parts that a test describes: python small_suite.py FOLDER STYLE PATIENCE PARTS (JSON)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from reelhaul_runtime import logs
from reelhaul_runtime.up import ground, lines
from reelhaul_runtime.up.keeper import Patience
from reelhaul_runtime.up.parts import Part
from reelhaul_runtime.up.suite import Suite

folder, style = ground.run_folder(Path(sys.argv[1])), sys.argv[2]
patience, parts = Patience(**json.loads(sys.argv[3])), [Part(**part) for part in json.loads(sys.argv[4])]


async def main(told: lines.Lines) -> int:
    return await Suite(parts, folder, patience, told).run()


with ground.locked(folder), lines.to_stderr("text" if style == "text" else "json", "INFO") as told:
    logs.configure("up", "json", "INFO", stream=lines.Stream("up", told))
    sys.exit(asyncio.run(main(told)))
