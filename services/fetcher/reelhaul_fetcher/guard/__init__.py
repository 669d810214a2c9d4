"""Guard: the proxy process that decides which addresses a fetch may reach, and counts its traffic."""
