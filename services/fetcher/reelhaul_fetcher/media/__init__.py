"""Media files: inspected and decoded by libav in a sandboxed process, muxed and converted by ffmpeg."""
