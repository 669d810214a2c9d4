"""Seccomp filters: a sandboxed process still computes, and can do nothing else."""

from __future__ import annotations

import ast
import errno
import struct
import subprocess
import sys

import pytest

from reelhaul_fetcher.media import seccomp
from reelhaul_fetcher.media.seccomp import Calls

_PREAMBLE = """
import ctypes, os, socket, sys, threading
from reelhaul_fetcher.media import seccomp
from reelhaul_fetcher.media.seccomp import Calls
if not seccomp.install_filter():
    sys.exit("this kernel does not support it")
"""

# C functions, which return -1, and their arguments.
_REFUSED = {
    "of files": """
        chmod(b'/x', 0) fchmod(1, 0) chown(b'/x', 0, 0) mknod(b'/x', 0, 0) mkdir(b'/x', 0)
        rmdir(b'/x') link(b'/x', b'/y') symlink(b'/x', b'/y') rename(b'/x', b'/y')
        truncate(b'/x', 0) utimes(b'/x', None) setxattr(b'/x', b'user.a', b'', 0, 0)
        removexattr(b'/x', b'user.a') getxattr(b'/x', b'user.a', None, 0) access(b'/etc', 0)
        stat(b'/etc', buffer) readlink(b'/proc/self/exe', buffer, 9) chdir(b'/') chroot(b'/')
        open(b'/etc/hostname', 0) creat(b'/tmp/x', 0) inotify_init() memfd_create(b'x', 0)
        statfs(b'/', buffer)
    """,
    "of other processes": """
        kill(parent, 0) killpg(parent, 0) sigqueue(parent, 0, None) tgkill(parent, parent, 0)
        getpriority(0, parent) setpriority(0, parent, 5) sched_setaffinity(parent, 128, buffer)
        prlimit(parent, 7, None, buffer) fcntl(channel, 8, parent)
        process_vm_readv(parent, None, 0, None, 0, 0) ptrace(16, parent, 0, 0) vfork() setpgid(0, 0)
        setsid()
    """,
    "of the network": """
        socket(1, 1, 0) socketpair(1, 1, 0, buffer) bind(channel, buffer, 2) listen(channel, 1)
        connect(channel, buffer, 2) accept(channel, None, None) setsockopt(channel, 1, 2, buffer, 4)
    """,
    "of shared objects": """
        shmget(0, 4096, 512) msgget(0, 512) semget(0, 1, 512) mq_open(b'/x', 66, 0, None)
        pipe(buffer) eventfd(0, 0) epoll_create1(0) timerfd_create(1, 0)
        timer_create(1, None, buffer)
    """,
    "of the system": """
        mount(b'/', b'/', b'', 0, None) umount(b'/') unshare(0) setns(0, 0) setuid(0) setgid(0)
        capset(buffer, buffer) sethostname(b'', 0) swapoff(b'/x') personality(0) klogctl(10, None, 0)
        reboot(0) setrlimit(7, buffer) prctl(38, 1, 0, 0, 0) ioctl(0, 0x5412, buffer) mlockall(1)
        setitimer(0, buffer, None) execve(b'/bin/true', None, None)
    """,
}


def _run(code: str) -> str:
    completed = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + code], capture_output=True, text=True, timeout=20, check=False
    )
    return completed.stdout.strip() or completed.stderr.strip()[-200:]


@pytest.mark.parametrize(
    "statement",
    [
        "open('/etc/hostname')",
        "open('/proc/%d/mem' % os.getppid(), 'rb')",
        "open('new', 'w')",
        "os.unlink('/nothing')",
        "socket.socket()",
        "socket.socketpair()",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_denied_calls(statement: str) -> None:
    """Calls that affect anything outside the process fail, and the process goes on."""
    code = f"""
try:
    {statement}
except PermissionError as error:
    print("refused")
"""
    assert _run(code) == "refused"


@pytest.mark.parametrize("kind", _REFUSED)
def test_refused_functions(kind: str) -> None:
    """Every function of the C library that changes or tells anything outside the process is refused."""
    calls = [f"{call})" for call in "".join(_REFUSED[kind]).split(")")[:-1]]
    code = f"""
libc, buffer, parent = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(4096), os.getppid()
channel, results = 0, {{}}
for call in {[call.strip() for call in calls]!r}:
    ctypes.set_errno(0)
    results[call] = (eval("libc." + call), ctypes.get_errno())
print(results)
"""
    results = ast.literal_eval(_run(code))
    assert len(results) == len(calls)
    refused = ((-1, errno.EPERM), (-1, errno.ENOSYS))
    assert not {call: result for call, result in results.items() if result not in refused}


def test_threads() -> None:
    """A decoder may still start threads."""
    code = """
results = []
threads = [threading.Thread(target=results.append, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(results))
"""
    assert _run(code) == "4"


def test_open_files() -> None:
    """A process may still use what is open: read, seek, map, receive and send."""
    code = """
ours, theirs = ARE_OPEN
os.write(1, b"")
theirs.send(b"x")
assert ours.recv(1) == b"x"
with open(FILE, "rb", closefd=False) as file:
    file.seek(4)
    assert os.fstat(FILE).st_size == 8
    assert os.read(os.dup(FILE), 4)
print("done")
"""
    opened = (
        "import os, socket\nFILE = os.memfd_create('x')\nos.write(FILE, b'12345678')\nos.lseek(FILE, 0, 0)\n"
    )
    opened += "ARE_OPEN = socket.socketpair()\n"
    completed = subprocess.run(
        [sys.executable, "-c", opened + _PREAMBLE + code],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert completed.stdout == "done\n", completed.stderr


class _Filter:
    """Interprets a filter's BPF code as the kernel does (linux/filter.h)."""

    _ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000

    def __init__(self, machine: str, calls: seccomp.Calls) -> None:
        self._architecture = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
        code = seccomp.filter_code(machine, calls)
        self._code = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]

    def allows(self, number: int, *arguments: int, architecture: int = 0) -> bool:
        """Return whether the call *number* with *arguments* is allowed."""
        architecture = architecture or self._architecture
        values = (number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
        data, accumulator, at = struct.pack("IIQ6Q", *values), 0, 0
        while True:
            code, then, otherwise, value = self._code[at]
            at += 1
            match code:
                case 0x20:
                    accumulator = struct.unpack_from("I", data, value)[0]
                case 0x06:
                    assert value in (self._ALLOW, self._KILL) or value & ~0xFFFF == self._REFUSE
                    return value == self._ALLOW
                case _:
                    holds = {
                        0x15: accumulator == value,
                        0x35: accumulator >= value,
                        0x45: bool(accumulator & value),
                    }[code]
                    at += then if holds else otherwise


# Numbers of read, openat, execve, clone, fcntl, newfstatat, prlimit64, rt_sigqueueinfo, fchmodat, socket.
@pytest.mark.parametrize(
    ("machine", "numbers"),
    [
        ("x86_64", (0, 257, 59, 56, 72, 262, 302, 129, 268, 41)),
        ("aarch64", (63, 56, 221, 220, 25, 79, 261, 138, 53, 198)),
    ],
)
def test_filter_of_each_machine(machine: str, numbers: tuple[int, ...]) -> None:
    """The filters of both machines allow and refuse the same calls, with the same arguments."""
    read, openat, execve, clone, fcntl, newfstatat, prlimit, sigqueueinfo, chmod, socket = numbers
    inspector, program = (_Filter(machine, calls) for calls in (Calls.COMPUTING, Calls.PROGRAM))
    for filter_ in (inspector, program):
        assert filter_.allows(read)
        assert not filter_.allows(read, architecture=0x40000003)
        assert not filter_.allows(read | 0x40000000)
        assert not any(map(filter_.allows, (sigqueueinfo, chmod, socket, 435, 437, 2000)))
        assert filter_.allows(clone, 0x00010000)
        assert not filter_.allows(clone, 17)
        assert [command for command in range(2000) if filter_.allows(fcntl, 5, command)] == [
            0,
            1,
            2,
            3,
            4,
            1030,
        ]
        assert filter_.allows(newfstatat, 5, 0, 0, 0x1000)
        assert not filter_.allows(newfstatat, 5, 0, 0, 0x100)
    assert not any(map(inspector.allows, (openat, execve, prlimit)))
    assert all(map(program.allows, (openat, execve, prlimit)))
    assert not program.allows(prlimit, 0, 7, 0x1000)
    assert not program.allows(prlimit, 0, 7, 1 << 40)


# Numbers of socketpair, ioctl, epoll_create1, kill, sched_setscheduler.
@pytest.mark.parametrize(
    ("machine", "numbers"), [("x86_64", (53, 16, 291, 62, 144)), ("aarch64", (199, 29, 20, 129, 119))]
)
def test_filter_of_an_event_loop(machine: str, numbers: tuple[int, ...]) -> None:
    """A program with an event loop makes no sockets but pairs, and asks a terminal no more than its size."""
    socketpair, ioctl, epoll, kill, set_scheduler = numbers
    loop, program = (_Filter(machine, calls) for calls in (Calls.EVENT_LOOP, Calls.PROGRAM))
    assert not any(map(program.allows, (socketpair, ioctl, epoll)))
    assert [family for family in range(50) if loop.allows(socketpair, family, 1, 0)] == [1]
    requests = [request for request in range(0x5400, 0x5500) if loop.allows(ioctl, 0, request)]
    assert requests == [0x5401, 0x5413, 0x5421, 0x5450, 0x5451]
    assert loop.allows(epoll)
    assert not any(map(loop.allows, (kill, set_scheduler)))
