"""Storage: keeps artifacts, each content once, and hands them out again."""
