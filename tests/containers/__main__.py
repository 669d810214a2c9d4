"""``make verify-containers``: build the images, run compose.yaml with them, and check what must hold.

Ends with one line, ``containers ok …``, or ``SKIP containers: …`` with what this machine lacks; exits with 1
if something does not hold. Everything runs in a Docker engine of its own, of which nothing is left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.containers import end_to_end, image_checks, images
from tests.containers.deployment import Deployment, DeploymentError, running_deployment
from tests.containers.engine import Engine, EngineError, leftovers, running_engine
from tests.debian_packages import Missing
from tests.suite.suite import SuiteError

#: Everything is over after this time, on the slowest machine.
_LIMIT_SECONDS = 25 * 60
_FAILURES = (DeploymentError, EngineError, SuiteError, OSError, subprocess.SubprocessError, AssertionError)
_IMAGE_CHECKS: tuple[Callable[[Engine], str], ...] = (
    image_checks.check_sizes,
    image_checks.check_licenses,
    image_checks.check_bill_of_materials,
    image_checks.check_engine_layer,
    image_checks.check_all_in_one,
)
_DEPLOYMENT_CHECKS: tuple[Callable[[Deployment], str], ...] = (
    end_to_end.check_download,
    end_to_end.check_keys,
    end_to_end.check_isolation,
    end_to_end.check_logs,
    end_to_end.check_monitoring,
    end_to_end.check_one_container,
    end_to_end.check_drains,
    end_to_end.check_kills,
)


def main() -> int:
    """Run all checks; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupt)
    signal.alarm(_LIMIT_SECONDS)
    begin, folder = time.monotonic(), Path()
    try:
        with running_engine() as engine:
            folder = engine.folder
            count = _verify(engine)
    except Missing as error:
        print(f"SKIP containers: {error}")
        return 0
    except _FAILURES as error:
        print(f"containers FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("containers FAILED: interrupted, or not done within 25 minutes", file=sys.stderr)
        return 1
    if left := leftovers(folder):
        print(f"containers FAILED: the engine has left {left}", file=sys.stderr)
        return 1
    print(f"containers ok checks={count} seconds={time.monotonic() - begin:.0f}")
    return 0


def _verify(engine: Engine) -> int:
    """Build and check everything; return how many checks there were."""
    _report("engine", engine.run("version", "--format=Docker {{.Server.Version}}"), time.monotonic())
    begin = time.monotonic()
    images.import_base(engine)
    images.build(engine, image_checks.ALL)
    images.build(engine, image_checks.SERVER, "server")
    images.build_stand_ins(engine)
    _report("images", "built", begin)
    for check in _IMAGE_CHECKS:
        begin = time.monotonic()
        _report(check.__name__.removeprefix("check_"), check(engine), begin)
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="reelhaul-secrets-") as secrets,
        running_deployment(engine, Path(secrets)) as deployment,
    ):
        _report("compose", "all containers are healthy", begin)
        for deployment_check in _DEPLOYMENT_CHECKS:
            begin = time.monotonic()
            result = deployment_check(deployment)
            _report(deployment_check.__name__.removeprefix("check_"), result, begin)
    _expect_nothing_left(engine)
    return len(_IMAGE_CHECKS) + len(_DEPLOYMENT_CHECKS)


def _expect_nothing_left(engine: Engine) -> None:
    """Check that ``docker compose down --volumes`` has removed all of the project."""
    for kind, command in {
        "containers": ("ps", "--all", "--format={{.Names}} {{.Status}}"),
        "networks": ("network", "ls", "--quiet", "--filter=name=reelhaul"),
        "volumes": ("volume", "ls", "--quiet", "--filter=name=reelhaul"),
    }.items():
        if left := engine.run(*command):
            raise DeploymentError(f"{kind} are left: {left}")


def _report(name: str, result: str, begin: float) -> None:
    print(f"{name:<13} {result} ({time.monotonic() - begin:.1f} s)", flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


sys.exit(main())
