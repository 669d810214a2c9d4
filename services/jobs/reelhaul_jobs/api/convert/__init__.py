"""Proto <-> model: pure, both ways; bounds of incoming fields that are no job's."""
