"""A Podman of its own for tests: Debian's programs, unpacked and not installed.

It needs root. Its images, networks and state are in one folder, and nothing of it is left at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import debian_packages
from tests.containers.engine import EngineError, only_engine, restored_network, run_client
from tests.debian_packages import Missing

_SECONDS = 1500.0
_PACKAGES = (
    "podman",
    "runc",
    "netavark",
    "aardvark-dns",
    "conmon",
    "catatonit",
    "iptables",
    "nftables",
    "iproute2",
)
#: The log of the machine, which conmon writes to; without it Podman cannot remove an ended container.
_LOG_SOCKET = Path("/dev/log")
_CONFIG = """\
[containers]
# Containers may not raise limits where root itself may not.
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
seccomp_profile = "{programs}/usr/share/containers/seccomp.json"
log_driver = "k8s-file"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = ["{programs}/usr/bin/conmon"]
helper_binaries_dir = ["{programs}/usr/lib/podman", "{programs}/usr/libexec/podman"]
init_path = "{programs}/usr/libexec/podman/catatonit"
tmp_dir = "{folder}/tmp"

[engine.runtimes]
runc = ["{programs}/usr/sbin/runc"]

[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


@dataclass(frozen=True)
class Podman:
    """Podman with its state in *folder*."""

    folder: Path
    #: The environment of its programs.
    environment: dict[str, str]

    def run(self, *arguments: str | Path, seconds: float = _SECONDS, check: bool = True) -> str:
        """Run ``podman`` with *arguments*, which may be of Docker's buildx; return its output.

        Raises EngineError.
        """
        words = [str(each) for each in arguments]
        if words[:2] == ["buildx", "build"]:
            words = ["build", "--format=docker", *words[2:]]
        return run_client(self._command(*words), self.environment, seconds, check=check)

    def read_log(self, container: str) -> str:
        """Return the end of the log of *container*."""
        result = subprocess.run(
            self._command("logs", container),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return (result.stdout + result.stderr)[-4000:]

    def _command(self, *words: str) -> list[str]:
        return ["podman", f"--root={self.folder}/storage", f"--runroot={self.folder}/run", *words]

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what Podman says of *container*."""
        (found,) = json.loads(self.run("inspect", "--type=container", container))
        result: dict[str, Any] = found
        return result


@contextmanager
def running_podman() -> Iterator[Podman]:
    """Provide a Podman; its containers, networks and files are gone at the end of the block.

    Raises Missing if this machine cannot run it; its text says what is missing.
    """
    if os.geteuid() != 0:
        raise Missing("Podman needs root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise Missing("this kernel has no overlay file system, which Podman needs")
    programs = debian_packages.unpack(*_PACKAGES)
    with ExitStack() as stack:
        stack.enter_context(only_engine())
        folder = Path(tempfile.mkdtemp(prefix="reelhaul-podman-"))
        stack.callback(_delete, folder)
        podman = Podman(folder, _environment(folder, programs))
        stack.enter_context(restored_network(podman.environment))
        stack.enter_context(_log_socket())
        try:
            podman.run("info", seconds=60)
        except EngineError as error:
            raise Missing(f"Podman does not start here: {str(error)[-300:]}") from None
        stack.callback(_remove_all, podman)
        yield podman


def _environment(folder: Path, programs: Path) -> dict[str, str]:
    """Return the environment of Podman, after writing its configuration."""
    links, config = folder / "bin", folder / "home/.config/containers"
    for each in (links, config, folder / "networks", folder / "tmp"):
        each.mkdir(parents=True)
    for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables"):
        (links / name).symlink_to(programs / "usr/sbin/xtables-nft-multi")
    (folder / "containers.conf").write_text(_CONFIG.format(programs=programs, folder=folder))
    shutil.copy(programs / "etc/containers/policy.json", config)
    (config / "registries.conf").write_text("unqualified-search-registries = []\n")
    unpacked = debian_packages.environment(programs)
    extensions = next(programs.glob("usr/lib/*/xtables"), None)
    return (
        os.environ
        | unpacked
        | {
            "PATH": f"{links}{os.pathsep}{unpacked['PATH']}",
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home/.config"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(config / "registries.conf"),
            "TMPDIR": str(folder / "tmp"),
        }
        | ({"XTABLES_LIBDIR": str(extensions)} if extensions else {})
    )


@contextmanager
def _log_socket() -> Iterator[None]:
    """Be the log of a machine that has none: what is sent to it is dropped."""
    if _LOG_SOCKET.exists():
        yield
        return
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(_LOG_SOCKET))
    _LOG_SOCKET.chmod(0o666)

    def drop() -> None:
        with suppress(OSError):
            while receiver.recv(65536):
                pass

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        _LOG_SOCKET.unlink()
        receiver.shutdown(socket.SHUT_RDWR)
        receiver.close()


def _remove_all(podman: Podman) -> None:
    for command in (
        ("pod", "rm", "--all", "--force", "--time=5"),
        ("rm", "--all", "--force", "--time=5"),
        ("network", "prune", "--force"),
        ("volume", "prune", "--force"),
    ):
        with suppress(EngineError):
            podman.run(*command, seconds=120)


def _delete(folder: Path) -> None:
    """Unmount and delete what is left in *folder*."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
