"""Post-processing: joins, cuts, muxes, verifies and splits the streams received."""
