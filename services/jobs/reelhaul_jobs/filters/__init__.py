"""Filters: the subset of AIP-160 that lists, watches and webhooks share, https://google.aip.dev/160

``parse`` makes a tree of a text; ``holding.holds`` judges facts by it in memory, and
``filters_sql`` makes a condition of it for a database.
"""
