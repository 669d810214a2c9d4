"""Child processes: commands and environments with nothing of the working directory, and no settings."""

from __future__ import annotations

import os
import sys

# Variables of the suite, and of boto3: the credentials of storage's bucket.
_SETTINGS_PREFIXES = ("REELHAUL_", "AWS_")


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs *module* with this Python.

    With ``-m`` alone, a file of the working directory could shadow a module that is imported; ``-P`` leaves
    the directory out of the module search path. ``-I`` would ignore PYTHONPATH too, which operators may use.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def environment_without_settings() -> dict[str, str]:
    """Return the environment variables of this process except the suite's settings and secrets.

    PYTHONPATH keeps its absolute folders: an empty or relative one, as in
    ``PYTHONPATH=$PYTHONPATH:/opt/lib``, is one of the working directory.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIXES)}
    folders = filter(os.path.isabs, variables.pop("PYTHONPATH", "").split(os.pathsep))
    if python_path := os.pathsep.join(folders):
        variables["PYTHONPATH"] = python_path
    return variables
