"""Confinement of the programs that read what sites send, ffmpeg and deno.

They can open no file but themselves, the libraries of the system and what they are given, reach no host, and
know no secret. Without Landlock, the inputs of ffmpeg by descriptor and the permissions of deno remain.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reelhaul_fetcher.media import landlock, seccomp
from reelhaul_runtime.parent_death import die_with_parent

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
    # Python lists /proc/self/fd to close descriptors before it starts the program.
    Path("/proc"): landlock.LIST,
}


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
        rules[Path(found).resolve()] = landlock.EXECUTE
    rules |= dict.fromkeys(readable, landlock.READ) | dict.fromkeys(writable, landlock.WRITE)
    with landlock.open_ruleset(rules) as ruleset:

        def enter() -> None:
            die_with_parent()
            landlock.restrict_self(ruleset)
            seccomp.install_filter(calls)

        yield enter


def environment() -> dict[str, str]:
    """Return the environment variables of a confined program."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}
