"""Catalogue: artifacts, uploads and blobs in SQL."""
