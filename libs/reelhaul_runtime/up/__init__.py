"""``reelhaul up``: the suite on one machine, as supervised processes."""
