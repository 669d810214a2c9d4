"""Checks of this machine: the data folder, its disk, the limits of the kernel, the clock, certificates."""

from __future__ import annotations

import os
import pwd
import resource
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reelhaul_runtime.certificate import CertificateError, read_expiry
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.settings import SuiteSettings

_GB = 1_000_000_000
_LOW_BYTES, _LOW_SHARE = 2 * _GB, 0.05
_MIN_FREE_INODES = 10_000
_MIN_DESCRIPTORS = 4096
_EXPIRES_SOON = timedelta(days=14)
#: File systems whose locks SQLite cannot rely on. https://sqlite.org/howtocorrupt.html
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "afs", "ceph")


def checks(settings: SuiteSettings) -> list[Check]:
    """Return the checks of this machine."""
    folder = settings.data_dir.absolute()
    return [
        Check("machine.data_folder", lambda: _check_data_folder(folder)),
        Check("machine.disk", lambda: check_disk(folder, "REELHAUL_DATA_DIR")),
        Check("machine.open_files", _check_open_files),
        Check("machine.certificates", lambda: _check_certificates(settings)),
    ]


def _check_data_folder(folder: Path) -> Iterator[Finding]:
    existing = existing_folder(folder)
    if existing != folder:
        yield ok(f"{folder} does not exist yet: the suite creates it")
        return
    status = folder.stat()
    if status.st_uid != os.geteuid():
        yield problem(
            f"{folder} belongs to {_user(status.st_uid)}, and this command runs as {_user(os.geteuid())}",
            "run it as the user of the suite, or change the owner of the folder",
        )
    elif status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        yield warning(f"{folder} is open to other users (mode {mode:04o})", f"chmod 700 {folder}")
    else:
        yield ok(f"{folder} belongs to {_user(status.st_uid)}, and to nobody else")
    if (kind := _file_system(folder)) in _NETWORK_FILE_SYSTEMS:
        yield warning(
            f"{folder} is on a network file system ({kind}), on which SQLite can lose data",
            "use a local disk, or PostgreSQL by REELHAUL_JOBS_DATABASE_URL and REELHAUL_STORAGE_DATABASE_URL",
        )


def check_disk(folder: Path, setting: str, low_bytes: int = _LOW_BYTES) -> Iterator[Finding]:
    """Yield whether the disk of *folder*, which *setting* names, has space and inodes."""
    disk = os.statvfs(existing_folder(folder))
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    text = f"{free / _GB:.1f} of {total / _GB:.1f} GB are free at {folder}"
    remedy = f"free space, or move {setting} to a larger disk"
    if free < low_bytes:
        yield problem(text, remedy)
    elif free < total * _LOW_SHARE:
        yield warning(text, remedy)
    else:
        yield ok(text)
    # Some file systems have no fixed number.
    if disk.f_files and disk.f_favail < _MIN_FREE_INODES:
        yield problem(f"{disk.f_favail} inodes are free at {folder}", "delete small files on that disk")


def existing_folder(folder: Path) -> Path:
    """Return *folder*, or the nearest folder above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_open_files() -> Finding:
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    if maximum != resource.RLIM_INFINITY and maximum < _MIN_DESCRIPTORS:
        return warning(
            f"a process may have {maximum} open files, which limits the connections of the gateway",
            "raise it: LimitNOFILE= in the systemd unit, or ulimits in compose.yaml",
        )
    return ok(f"a process may have {'any number of' if maximum < 0 else maximum} open files")


def _check_certificates(settings: SuiteSettings) -> Iterator[Finding]:
    files = {
        "REELHAUL_TLS_CERTIFICATE": settings.tls_certificate,
        "REELHAUL_GATEWAY_TLS_CERTIFICATE": settings.gateway_tls_certificate,
        "REELHAUL_NATS_CERTIFICATE": settings.nats_certificate,
        "REELHAUL_TLS_CA": settings.tls_ca,
        "REELHAUL_NATS_CA": settings.nats_ca,
    }
    used = {name: file for name, file in files.items() if file is not None}
    if not used:
        yield ok("no TLS is configured")
    for name, file in used.items():
        # That key and certificate are a pair, and the name is right, the settings check.
        yield check_certificate(name, file, datetime.now(UTC))


def check_certificate(name: str, file: Path, now: datetime) -> Finding:
    """Return whether the certificate in *file*, which the setting *name* names, is valid *now*."""
    try:
        expiry = read_expiry(file)
    except CertificateError as error:
        return problem(f"{name}: {error}", "set it to a certificate in PEM format")
    text = f"{name}: {file} expires on {expiry:%Y-%m-%d}"
    if expiry <= now:
        return problem(f"{name}: {file} has expired on {expiry:%Y-%m-%d}", "replace the file")
    if expiry - now < _EXPIRES_SOON:
        return warning(text, "replace the file: services read it again by themselves")
    return ok(text)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _file_system(folder: Path) -> str:
    """Return the kind of the file system that *folder* is on; empty if it is not known."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    resolved, best, kind = folder.resolve(), "", ""
    for mount, name in _mounts(lines):
        if resolved.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _mounts(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        fields = line.split()
        if len(fields) > 2:
            yield fields[1].replace("\\040", " "), fields[2]
