"""Filters of lists and watches: a subset of AIP-160, https://google.aip.dev/160

``parser.parse`` turns text over a table of fields into the tree of ``ast``; ``evaluate.matches`` evaluates
that on the values of one resource, and ``sql.filter_conditions`` turns it into an SQL condition.
"""
