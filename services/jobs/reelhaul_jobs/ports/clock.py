"""What time it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

#: The time, aware, in UTC.
Clock = Callable[[], datetime]
