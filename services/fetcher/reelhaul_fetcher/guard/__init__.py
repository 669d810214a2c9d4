"""Guard: the only way out for a fetch; decides which addresses it may reach, and counts what passes."""
