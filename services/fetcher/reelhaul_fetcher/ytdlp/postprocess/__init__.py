"""Post-processing: makes the requested file of the streams received. Joins, cuts, muxes, verifies, splits."""
