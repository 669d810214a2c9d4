"""Media: libav looks into local files, ffmpeg makes others of them."""
