"""Connection tuner: gives a download one connection, unless it is slow and more are faster."""

from __future__ import annotations

#: One connection with this many bytes per second is fast enough.
FAST_BYTES_PER_SECOND = 8_000_000
# Seconds of the first measurement, in which a connection gets up to speed, and of later ones.
_FIRST_MEASUREMENT, _MEASUREMENT = 0.7, 0.4
# The first step goes to this many connections; later ones double them.
_FIRST_STEP = 4
# A step is kept if it makes the download this many times faster.
_MIN_GAIN = 1.25
# More connections do not help a download that ends within this many seconds.
_MIN_SECONDS_LEFT = 1.0
# Pause after a refusal.
_REFUSAL_SECONDS = 5.0


class ConnectionTuner:
    """Measures the speed from time to time; never returns more than *most* connections.

    *received* bytes were received before the first measurement.
    """

    def __init__(self, most: int, now: float, first: int = 1, received: int = 0) -> None:
        self._most = most
        self._target = min(first, most)
        self._measured_at, self._measured_bytes = now, received
        self._interval = _FIRST_MEASUREMENT if first == 1 else _MEASUREMENT
        #: Speed and connections before the last step, until it is judged; 0 connections: no step.
        self._speed_before, self._connections_before = 0.0, 0

    @property
    def limit(self) -> int:
        """How many connections there should be, as of the last measurement."""
        return self._target

    def update(self, now: float, received: int, left: int) -> int:
        """Return how many connections there should be, with *received* bytes here and *left* missing."""
        elapsed = now - self._measured_at
        if elapsed < self._interval:
            return self._target
        speed = (received - self._measured_bytes) / elapsed
        self._restart_measurement(now, received, _MEASUREMENT)
        if self._connections_before and speed < self._speed_before * _MIN_GAIN:
            # The network is the bottleneck: the site should not serve more connections for nothing.
            self._most = self._target = self._connections_before
        elif self._can_grow(speed) and left > speed * _MIN_SECONDS_LEFT:
            self._speed_before, self._connections_before = speed, self._target
            self._target = min(max(_FIRST_STEP, 2 * self._target), self._most)
            return self._target
        self._connections_before = 0
        return self._target

    def on_refusal(self, now: float, received: int, connections: int, *, permanent: bool) -> None:
        """Handle that the site refused one of *connections*: use fewer, for some time or *permanent*."""
        self._target = max(1, min(self._target, connections - 1))
        self._connections_before = 0
        if permanent:
            self._most = self._target
        self._restart_measurement(now, received, _REFUSAL_SECONDS)

    def _can_grow(self, speed: float) -> bool:
        return speed < FAST_BYTES_PER_SECOND * self._target < FAST_BYTES_PER_SECOND * self._most

    def _restart_measurement(self, now: float, received: int, interval: float) -> None:
        self._measured_at, self._measured_bytes, self._interval = now, received, interval
