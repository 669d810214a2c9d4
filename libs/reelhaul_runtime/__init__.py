"""Runtime: what all our servers share, so that each of them holds only its own subject."""
