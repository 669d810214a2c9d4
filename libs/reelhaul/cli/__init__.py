"""The command line: ``reelhaul``, for people at a terminal and for scripts (``--json``)."""

from __future__ import annotations


def main() -> None:
    """Run the command line; what the console script ``reelhaul`` calls."""
    from reelhaul.cli.commands import reelhaul

    reelhaul()
