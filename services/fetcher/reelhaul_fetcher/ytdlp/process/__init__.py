"""Processes: the zygote, its children, their sandbox and the protocol they speak."""
