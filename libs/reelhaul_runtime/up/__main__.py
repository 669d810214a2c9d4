"""``python -m reelhaul_runtime.up FD``: the supervisor of the suite, as ``startup`` has planned it.

It runs as long as the suite, so it imports next to nothing: no settings, no command line.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from contextlib import ExitStack

from reelhaul_runtime import logs
from reelhaul_runtime.child_process import replace_process
from reelhaul_runtime.unhandled_errors import log_unhandled_errors
from reelhaul_runtime.up import log_multiplexer
from reelhaul_runtime.up.preloader_process import Preloader
from reelhaul_runtime.up.process_supervisor import RestartPolicy
from reelhaul_runtime.up.suite import PORT_TAKEN, Suite
from reelhaul_runtime.up.suite_processes import SuitePlan


def main() -> int:
    """Run the suite of the plan in the file descriptor argv[1] until a signal; return the exit code."""
    with open(int(sys.argv[1]), "rb") as file:
        plan: SuitePlan = pickle.load(file)  # noqa: S301 - of this process, before it was replaced
    if (code := _run(plan)) != PORT_TAKEN:
        return code
    for descriptor in plan.descriptors:
        os.set_inheritable(descriptor, False)
    return replace_process("reelhaul_runtime.up.startup", str(plan.number + 1))


def _run(plan: SuitePlan) -> int:
    with ExitStack() as stack:
        renderer = stack.enter_context(log_multiplexer.render_to_stderr(plan.log_style, plan.log_level))
        logs.configure("up", "json", plan.log_level, stream=log_multiplexer.LogStream("up", renderer))
        log_unhandled_errors()
        preloader = Preloader.from_handle(plan.preloader) if plan.preloader else None
        if preloader is not None:
            stack.callback(preloader.close)
        suite = Suite(
            plan.processes,
            plan.folder,
            RestartPolicy(drain_timeout=plan.drain_timeout),
            renderer,
            nats_url=plan.nats_url,
            key_file=plan.key_file,
            only_json=plan.only_json,
            preloader=preloader,
        )
        return asyncio.run(suite.run())


if __name__ == "__main__":
    sys.exit(main())
