"""Downloads: the simple, flat API, told in terms of JobService; it keeps nothing of its own."""
