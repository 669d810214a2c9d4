"""The command line ``reelhaul``, for people at a terminal and for scripts (``--json``)."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the console script ``reelhaul``."""
    from reelhaul.cli.commands import reelhaul

    reelhaul()
