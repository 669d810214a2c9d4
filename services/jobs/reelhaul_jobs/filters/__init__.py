"""Filters of lists and watches: a subset of AIP-160, https://google.aip.dev/160

``parser.parse`` turns text into the tree of ``ast``; ``evaluate.matches`` evaluates that on one job, and
``store.filter_sql`` turns it into an SQL condition.
"""
