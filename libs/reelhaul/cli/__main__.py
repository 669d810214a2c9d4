"""``python -m reelhaul.cli``: the command line without its script."""

from reelhaul.cli import main

main()
