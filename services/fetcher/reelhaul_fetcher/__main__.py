"""``python -m reelhaul_fetcher``: the fetcher's own commands, where the console script is not installed."""

from __future__ import annotations

from reelhaul_fetcher.commands import fetcher

if __name__ == "__main__":
    fetcher(prog_name="python -m reelhaul_fetcher")
