"""Confinement of the programs that read what sites send, ffmpeg and deno.

They can open no file but themselves, the libraries of the system and what they are given, reach no host, and
know no secret. On a system that offers neither Landlock nor namespaces, the inputs of ffmpeg by descriptor
and the permissions of deno remain.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from reelhaul_fetcher.media import landlock, mount_namespace, seccomp
from reelhaul_runtime.child_process import environment_without_settings, module_command
from reelhaul_runtime.parent_death import die_with_parent

log = logging.getLogger(__name__)

#: The environment variable that names the mechanism to processes of the engine, which do not try them again.
VARIABLE = "REELHAUL_CONFINEMENT"

_TRIAL_SECONDS = 20

# No proxy variables: they contain the credentials of the fetch.
_VARIABLES = (
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "NO_COLOR",
)
_SYSTEM_RULES = {
    **dict.fromkeys(
        map(Path, ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib")),
        landlock.EXECUTE,
    ),
    **dict.fromkeys(
        map(
            Path,
            ("/etc/ld.so.cache", "/dev/urandom", "/dev/zero", "/sys/devices/system/cpu", "/sys/fs/cgroup"),
        ),
        landlock.READ,
    ),
    Path(os.devnull): landlock.WRITE,
}


class Mechanism(Enum):
    """What keeps a program from opening other files."""

    LANDLOCK = "landlock"
    NAMESPACE = "namespace"
    NONE = "none"


def mechanism() -> Mechanism:
    """Return the mechanism that the environment names, or else the best one that this system offers."""
    return Mechanism(named) if (named := os.environ.get(VARIABLE)) else _find_mechanism()


@functools.cache
def _find_mechanism() -> Mechanism:
    if landlock.version():
        return Mechanism.LANDLOCK
    # In a process of its own: it does not come back.
    trial = subprocess.run(
        module_command(__name__),
        env=environment_without_settings(),
        capture_output=True,
        text=True,
        check=False,
        timeout=_TRIAL_SECONDS,
    )
    if trial.returncode == 0:
        log.info("this kernel has no Landlock: ffmpeg and deno run in mount namespaces")
        return Mechanism.NAMESPACE
    log.warning(
        "this system offers neither Landlock nor user namespaces:"
        " hostile code in ffmpeg or deno could read files",
        extra={"cause": trial.stderr.strip()[-200:]},
    )
    return Mechanism.NONE


@contextmanager
def open_confinement(
    program: str,
    *,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    calls: seccomp.Calls = seccomp.Calls.PROGRAM,
) -> Iterator[Callable[[], None]]:
    """Yield a ``preexec_fn`` for *program*, which may open the files *readable* and *writable*.

    The files must exist. The program ends when its parent does. Only the system calls of *calls* are allowed:
    it can start no processes and reach no hosts. Raises OSError.
    """
    rules = dict(_SYSTEM_RULES)
    if found := shutil.which(program):
        rules[Path(found)] = landlock.EXECUTE
    rules |= dict.fromkeys(readable, landlock.READ) | dict.fromkeys(writable, landlock.WRITE)
    match mechanism():
        case Mechanism.LANDLOCK:
            # Python lists /proc/self/fd to close descriptors before it starts the program.
            with landlock.open_ruleset(rules | {Path("/proc"): landlock.LIST}) as ruleset:
                yield functools.partial(_enter, functools.partial(landlock.restrict_self, ruleset), calls)
        case Mechanism.NAMESPACE:
            mounts = mount_namespace.plan_mounts(
                {path: rights == landlock.WRITE for path, rights in rules.items()}
            )
            yield functools.partial(_enter, functools.partial(mount_namespace.enter, mounts), calls)
        case Mechanism.NONE:
            yield functools.partial(_enter, lambda: None, calls)


def _enter(restrict_files: Callable[[], None], calls: seccomp.Calls) -> None:
    die_with_parent()
    restrict_files()
    seccomp.install_filter(calls)


def environment() -> dict[str, str]:
    """Return the environment variables of a confined program."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def main() -> None:
    """Move this process into a mount namespace, or exit with the reason why that is not possible."""
    os.environ[VARIABLE] = Mechanism.NAMESPACE.value
    try:
        with open_confinement("true") as enter:
            enter()
    except OSError as error:
        sys.exit(str(error))
    os._exit(0)


if __name__ == "__main__":
    main()
