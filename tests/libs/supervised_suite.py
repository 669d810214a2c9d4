"""A suite of processes that a test describes: python supervised_suite.py FOLDER STYLE POLICY SPECS (JSON)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from reelhaul_runtime import logs
from reelhaul_runtime.up import data_dir, log_multiplexer
from reelhaul_runtime.up.process_supervisor import RestartPolicy
from reelhaul_runtime.up.suite import Suite
from reelhaul_runtime.up.suite_processes import SuiteProcess

folder, style = data_dir.create_run_folder(Path(sys.argv[1])), sys.argv[2]
policy = RestartPolicy(**json.loads(sys.argv[3]))
specs = [SuiteProcess(**spec) for spec in json.loads(sys.argv[4])]


async def main(renderer: log_multiplexer.LogRenderer) -> int:
    return await Suite(specs, folder, policy, renderer).run()


with (
    data_dir.lock(folder),
    log_multiplexer.render_to_stderr("text" if style == "text" else "json", "INFO") as renderer,
):
    logs.configure("up", "json", "INFO", stream=log_multiplexer.LogStream("up", renderer))
    sys.exit(asyncio.run(main(renderer)))
