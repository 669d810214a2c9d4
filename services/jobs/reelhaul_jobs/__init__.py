"""Jobs: remembers what was asked for, and how far it got."""
