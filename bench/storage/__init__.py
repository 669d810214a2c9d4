"""Benchmark of storage, on disk and S3, against cp, boto3, bare files and nginx."""
