"""OpenAPI 3.1: a document of the routes that a transcoder serves, with the comments of the protos."""
