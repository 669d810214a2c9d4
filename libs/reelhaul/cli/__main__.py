"""``python -m reelhaul.cli``: the command line without its console script."""

from reelhaul.cli import main

main()
