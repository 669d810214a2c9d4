"""Checks of addresses: whether services can listen at theirs, who does, and whether others are reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from reelhaul_runtime import listeners
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.server_addresses import split_addresses
from reelhaul_runtime.settings import HEALTH_ADDRESSES, LISTENERS, REPLICAS, SuiteSettings
from reelhaul_runtime.up import procfs
from reelhaul_runtime.up.suite_state import SuiteState

_CONNECT_SECONDS = 3.0
_LISTENING = "0A"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def checks(settings: SuiteSettings, suite: SuiteState | None) -> list[Check]:
    """Return a check for each address where a service listens, and for those of replicas elsewhere."""
    listening = {name: getattr(settings, name) for name in (*LISTENERS, *HEALTH_ADDRESSES)}
    for name in ("gateway", "jobs", "fetcher", "storage"):
        listening[f"{name}_metrics_address"] = getattr(settings, f"{name}_metrics_address")
        if suite is not None:
            # Where it really listens, if its port is 0.
            listening[f"{name}_address"] = suite.addresses[name].rpartition("/")[2]
            listening[f"{name}_metrics_address"] = suite.metrics.get(name, "")
    return [
        *(
            Check(f"address.{name.removesuffix('_address')}", _Listener(name, address, suite))
            for name, address in listening.items()
            if address and not address.endswith(":0")
        ),
        *(
            Check(f"address.{name.removesuffix('_addresses')}_replicas", _replicas(name, value))
            for name in REPLICAS
            if (value := getattr(settings, name))
        ),
    ]


class _Listener:
    """Checks *address*, of the setting *name*, while *suite* runs or is stopped."""

    def __init__(self, name: str, address: str, suite: SuiteState | None) -> None:
        self._variable, self._address, self._suite = f"REELHAUL_{name.upper()}", address, suite

    def __call__(self) -> Finding:
        host, _, port = self._address.rpartition(":")
        try:
            listeners.resolve(host, 0)
        except OSError as error:
            return problem(
                f"{self._variable}={self._address}: {error.strerror or error}",
                "set it to an address of this machine, or start the service on the machine that has it",
            )
        owner = find_listener(int(port))
        if owner is None:
            if self._suite is None:
                return ok(f"{self._address} is free")
            return warning(
                f"the suite runs, and nothing listens at {self._address}",
                f"set {self._variable} as for the suite; `reelhaul up --status` shows what is down",
            )
        pid, command = owner
        if not pid:
            return warning(
                f"a program of another user listens at {self._address}",
                f"end it, or set {self._variable} to another port",
            )
        if self._suite is not None and pid in _family(self._suite):
            return ok(f"the suite listens at {self._address} (pid {pid})")
        if "reelhaul" in command:
            return ok(
                f"a service of Reelhaul listens at {self._address} (pid {pid})",
                f"if it belongs to another suite, set {self._variable} to another port",
            )
        return problem(
            f"{command[:60]} (pid {pid}) listens at {self._address}",
            f"end it, or set {self._variable} to another port",
        )


def _family(suite: SuiteState) -> set[int]:
    return {suite.pid, *procfs.descendants(suite.pid)}


def _replicas(name: str, value: str) -> _Reachable:
    return _Reachable(f"REELHAUL_{name.upper()}", split_addresses(value))


class _Reachable:
    def __init__(self, variable: str, addresses: list[str]) -> None:
        self._variable, self._addresses = variable, addresses

    def __call__(self) -> Iterator[Finding]:
        for address in self._addresses:
            yield check_reachable(self._variable, address)


def check_reachable(setting: str, address: str) -> Finding:
    """Return whether a connection to *address* (host:port, or a URL) of *setting* can be opened."""
    url = urlsplit(address if "://" in address else f"//{address}")
    host, port = url.hostname or "", url.port or {"https": 443, "http": 80}.get(url.scheme, 0)
    shown = f"{host}:{port}"
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return problem(
            f"{setting}: no connection to {shown}: {reason}", "start what should listen there, or correct it"
        )
    return ok(f"{setting}: {shown} accepts connections")


def find_listener(port: int) -> tuple[int, str] | None:
    """Return the process that listens at *port*, with its command; pid 0 if it is another user's.

    None if nobody listens.
    """
    inodes = {inode for table in _TABLES for inode in _listening_inodes(table, port)}
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _has_open(entry, wanted):
            command = (
                Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            return int(entry), command.strip()
    return 0, ""


def _listening_inodes(table: str, port: int) -> Iterator[str]:
    try:
        lines = Path(table).read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _has_open(pid: str, wanted: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        for descriptor in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{descriptor}") in wanted:
                    return True
            except OSError:
                continue
    except OSError:
        return False
    return False
