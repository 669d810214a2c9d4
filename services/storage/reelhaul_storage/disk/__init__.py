"""BlobStore on a local disk: files in one folder of one filesystem."""
