"""A Docker engine of its own for tests: Debian's programs, unpacked and not installed.

It needs root, and no other program of containers: its data, its socket and its networks are its own, and when
it has stopped, nothing of it is left. One engine runs on a machine at a time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests import debian_packages
from tests.debian_packages import Missing

#: Addresses of the default bridge and of the networks that the engine creates.
_BRIDGE, _NETWORKS = "172.31.255.1/24", "172.31.0.0/17"
_START_SECONDS, _STOP_SECONDS, _COMMAND_SECONDS = 60.0, 30.0, 600.0
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_CGROUPS = Path("/sys/fs/cgroup")


class EngineError(Exception):
    """A command of the engine failed; the text has its output."""


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    folder: Path
    #: The environment of its programs: PATH, the socket and the plugins.
    environment: dict[str, str]

    def run(self, *arguments: str | Path, seconds: float = _COMMAND_SECONDS, check: bool = True) -> str:
        """Run ``docker`` with *arguments*; return its standard output. Raises EngineError."""
        return run_client(["docker", *map(str, arguments)], self.environment, seconds, check=check)


def run_client(command: Sequence[str], environment: Mapping[str, str], seconds: float, *, check: bool) -> str:
    """Run *command*, a client of an engine; return its standard output.

    Raises EngineError if it takes longer than *seconds*, or, with *check*, if it fails.
    """
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"`{' '.join(command[:6])}` took longer than {seconds:.0f} s") from None
    if check and result.returncode:
        output = (result.stdout + result.stderr)[-4000:]
        raise EngineError(f"`{' '.join(command)}` ended with {result.returncode}:\n{output}")
    return result.stdout.strip()


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Run an engine; it and all that it created are gone at the end of the block.

    Raises Missing if this machine cannot run one; its text says what is missing.
    """
    if os.geteuid() != 0:
        raise Missing("a Docker engine needs root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise Missing("this kernel has no overlay file system, which a Docker engine needs")
    programs = debian_packages.unpack("docker.io", "containerd", "runc", "iptables", "nftables", "iproute2")
    plugins = debian_packages.unpack("docker-compose", "docker-buildx", suite="trixie", dependencies=False)
    with ExitStack() as stack:
        stack.enter_context(only_engine())
        folder = Path(tempfile.mkdtemp(prefix="reelhaul-engine-"))
        stack.callback(_delete, folder)
        environment = _environment(folder, programs, plugins)
        stack.enter_context(restored_network(environment))
        engine = Engine(folder, environment)
        daemon = _start(engine)
        stack.callback(_stop, engine, daemon)
        yield engine


@contextmanager
def only_engine() -> Iterator[None]:
    """Keep other engines of tests off this machine. Raises Missing if one runs."""
    path = Path(tempfile.gettempdir()) / "reelhaul-engine.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Missing("another test runs an engine of containers on this machine now") from None
        yield


def _environment(folder: Path, programs: Path, plugins: Path) -> dict[str, str]:
    """Return the environment of the engine's programs, after linking what Debian links on installation."""
    links, config = folder / "bin", folder / "config"
    links.mkdir()
    for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables"):
        (links / name).symlink_to(programs / "usr/sbin/xtables-nft-multi")
    (config / "cli-plugins").mkdir(parents=True)
    for plugin in (plugins / "usr/libexec/docker/cli-plugins").iterdir():
        (config / "cli-plugins" / plugin.name).symlink_to(plugin)
    unpacked = debian_packages.environment(programs)
    extensions = next(programs.glob("usr/lib/*/xtables"), None)
    return (
        os.environ
        | unpacked
        | {
            "PATH": f"{links}{os.pathsep}{unpacked['PATH']}",
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(config),
        }
        | ({"XTABLES_LIBDIR": str(extensions)} if extensions else {})
    )


def _start(engine: Engine) -> subprocess.Popen[bytes]:
    """Start the daemon; return when it answers. Raises Missing with the last line of its log."""
    folder = engine.folder
    command = ["dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    command += [f"--pidfile={folder}/pid", f"--host={engine.environment['DOCKER_HOST']}"]
    command += [f"--bip={_BRIDGE}", f"--default-address-pool=base={_NETWORKS},size=24"]
    # Containers may not raise limits where root itself may not.
    command += ["--oom-score-adjust=0", "--default-ulimit=nofile=20000:20000"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            command,
            env=engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + _START_SECONDS
    while daemon.poll() is None and time.monotonic() < end:
        with suppress(EngineError):
            engine.run("version", seconds=5)
            return daemon
        time.sleep(0.1)
    _kill(daemon)
    lines = (folder / "log").read_text(errors="replace").splitlines() or ["no output"]
    raise Missing(f"a Docker engine does not start here: {lines[-1][:300]}")


def _stop(engine: Engine, daemon: subprocess.Popen[bytes]) -> None:
    """Remove all containers, volumes and networks, then end the daemon."""
    with suppress(EngineError):
        if containers := engine.run("ps", "--all", "--quiet", seconds=30).split():
            engine.run("rm", "--force", "--volumes", *containers, seconds=60)
        engine.run("network", "prune", "--force", seconds=30)
        engine.run("volume", "prune", "--force", seconds=30)
    _kill(daemon)


def _kill(daemon: subprocess.Popen[bytes]) -> None:
    """End the daemon and its process group, by force if it does not stop."""
    daemon.terminate()
    with suppress(subprocess.TimeoutExpired):
        daemon.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()


@contextmanager
def restored_network(environment: dict[str, str]) -> Iterator[None]:
    """Put back the firewall, the forwarding and the links of this machine at the end of the block."""

    def run(*command: str, text: str | None = None) -> str:
        return subprocess.run(
            command, env=environment, input=text, capture_output=True, text=True, timeout=30, check=False
        ).stdout

    def tables() -> set[str]:
        return set(run("nft", "list", "tables").splitlines())

    def links() -> set[str]:
        return {path.name for path in Path("/sys/class/net").iterdir()}

    old_tables, old_links = tables(), links()
    old_rules, forwarding = run("iptables-save"), _IP_FORWARD.read_text()
    try:
        yield
    finally:
        for table in tables() - old_tables:
            run("nft", "delete", *table.split())
        if old_rules.strip():
            run("iptables-restore", text=old_rules)
        for link in links() - old_links:
            if link.startswith(("docker", "br-", "veth", "podman")):
                run("ip", "link", "delete", link)
        _IP_FORWARD.write_text(forwarding)


def _delete(folder: Path) -> None:
    """Unmount and delete what the daemon has left in *folder*, and its control groups."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    for controller in _CGROUPS.iterdir() if _CGROUPS.is_dir() else ():
        _remove_cgroups(controller / "docker")
    shutil.rmtree(folder, ignore_errors=True)


def _remove_cgroups(group: Path) -> None:
    if not group.is_dir():
        return
    for child in group.iterdir():
        if child.is_dir():
            _remove_cgroups(child)
    with suppress(OSError):
        group.rmdir()


def leftovers(folder: Path) -> Sequence[str]:
    """Return what an engine that has stopped left on this machine: links, mounts, processes and files."""
    found = [
        path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(("docker", "br-"))
    ]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in (command := process.read_bytes()):
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return [*found, *([str(folder)] if folder.exists() else [])]
