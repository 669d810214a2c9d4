"""Catalog in SQL: tables, row mapping and queries."""
