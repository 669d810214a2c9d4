"""Admission: the bounds of what callers may ask for, the same at whichever service they ask."""
