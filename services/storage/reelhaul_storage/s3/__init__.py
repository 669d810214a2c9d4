"""BlobStore on an S3 bucket."""
