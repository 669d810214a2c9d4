"""``reelhaul doctor``: checks of an installation that change nothing, each with what to do."""
