"""One module per measure: ``async def measure(report, only)``."""
