"""`pip install reelhaul` installs what clients and the command line import, and nothing of the servers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement

# Imports as if only *allowed* distributions were installed, and prints what comes of it.
_PROGRAM = """
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions

allowed, installed = set(sys.argv[1].split(",")), packages_distributions()

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        owners = installed.get(name.partition(".")[0], [])
        if owners and not {owner.lower().replace("_", "-") for owner in owners} & allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import importlib, pkgutil, click
import reelhaul
for module in pkgutil.walk_packages(reelhaul.__path__, "reelhaul."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from reelhaul.cli.commands import reelhaul
with click.Context(reelhaul) as context:
    for name in reelhaul.list_commands(context):
        reelhaul.get_command(context, name)
sys.argv = ["reelhaul", "up"]
reelhaul()
"""


def required(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Return the distributions that an installation of *name* installs, itself included."""
    found = {name.lower().replace("_", "-")}
    for text in requires(name) or ():
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            found |= required(requirement.name, frozenset(requirement.extras))
    return found


def test_clients_without_the_packages_of_servers() -> None:
    """Every module of the client package is imported; a command of a server says what to install."""
    allowed = required("reelhaul")
    servers = {"nats-py", "sqlalchemy", "uvicorn", "yt-dlp", "boto3"}
    assert not allowed & servers
    assert servers <= {owner.lower() for owners in packages_distributions().values() for owner in owners}
    command = [sys.executable, "-c", _PROGRAM, ",".join(sorted(allowed))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2, done.stderr
    assert "requires the server packages" in done.stderr
    assert "pip install 'reelhaul[all]'" in done.stderr
