"""``python -m reelhaul_runtime``: the server commands, for installations without the client's CLI."""

from __future__ import annotations

import click

from reelhaul_runtime import commands


@click.group()
def main() -> None:
    """Run Reelhaul's servers."""


main.add_command(commands.up)
main.add_command(commands.doctor)
main.add_command(commands.serve)
main.add_command(commands.migrate)
main.add_command(commands.backup)
main.add_command(commands.restore)

if __name__ == "__main__":
    main(prog_name="python -m reelhaul_runtime")
