"""Links between parts of the suite that can be cut: packets are dropped, in both directions or in one.

Each link is an address of its own, at which a client reaches what listens on 127.0.0.1. It works in a network
namespace of this run alone, with iptables.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from tests.network_namespaces import configure_link

#: The address at which the first part of each link reaches the second.
ADDRESSES = {
    "jobs-broker": "127.0.1.1",
    "fetcher-broker": "127.0.1.2",
    "fetcher-storage": "127.0.1.3",
    "jobs-database": "127.0.1.4",
}
_VARIABLE = "CHAOS_NETWORK_NAMESPACE"
_PROBE = ("iptables", "-w", "-t", "nat", "-L")


def enter_namespace(arguments: Sequence[str]) -> str:
    """Run this program again in a network namespace, with *arguments*; return at once if it is in one.

    Return why it cannot, or an empty text.
    """
    if os.environ.get(_VARIABLE):
        configure_link("lo", "127.0.0.1", "255.0.0.0")
        _run_iptables("-t", "nat", "-A", "OUTPUT", "-d", "127.0.1.0/24", "-p", "tcp", "-j", "DNAT")
        return ""
    for program in ("unshare", _PROBE[0]):
        if not shutil.which(program):
            return f"{program} is not installed"
    # PostgreSQL does not run as root: an ordinary user keeps its id, with the rights over its namespaces.
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
    enter = ("unshare", "--net", *user)
    probe = subprocess.run([*enter, *_PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"no network namespace with iptables: {probe.stderr.strip()}"
    os.environ[_VARIABLE] = "1"
    return _exec([*enter, sys.executable, "-m", "tests.chaos", *arguments])


def _exec(command: Sequence[str]) -> NoReturn:
    os.execvp(command[0], command)


def cut(link: str, *, one_way: bool = False) -> None:
    """Drop every packet of *link*; with *one_way* those of the answers only."""
    _run_iptables("-I", *_rule(link, one_way))


def mend(link: str, *, one_way: bool = False) -> None:
    """Undo ``cut``."""
    _run_iptables("-D", *_rule(link, one_way))


def _rule(link: str, one_way: bool) -> Sequence[str]:
    # The address as the client wrote it, before its translation.
    match = ("-m", "conntrack", "--ctorigdst", ADDRESSES[link])
    direction = ("--ctdir", "REPLY") if one_way else ()
    return ("INPUT", *match, *direction, "-j", "DROP")


def _run_iptables(*arguments: str) -> None:
    destination = ("--to-destination", "127.0.0.1") if arguments[-1] == "DNAT" else ()
    subprocess.run(["iptables", "-w", *arguments, *destination], check=True, capture_output=True)
