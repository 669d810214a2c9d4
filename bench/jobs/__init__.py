"""The parts of ``bench jobs``."""
