"""``python -m reelhaul_fetcher``: the fetcher's commands, without the console script."""

from __future__ import annotations

from reelhaul_fetcher.commands import fetcher

if __name__ == "__main__":
    fetcher(prog_name="python -m reelhaul_fetcher")
