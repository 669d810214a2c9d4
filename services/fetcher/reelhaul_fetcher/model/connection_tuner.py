"""How many connections a file is worth: one, unless it is slow and more of them are quicker."""

from __future__ import annotations

#: Bytes a second with which one connection is good enough.
SLOW = 8_000_000
# A connection needs a moment to come up to its speed.
_FIRST_LOOK, _NEXT_LOOK = 0.7, 0.4
_FIRST_STEP = 4
# A step is kept where it made the whole so much quicker.
_GAIN = 1.25
# With less than this to go at the present speed, more hands are no help.
_WORTHWHILE_SECONDS = 1.0
_CALM_SECONDS = 5.0


class Pace:
    """Looks at the bytes from time to time; never asks for more than *most* connections."""

    def __init__(self, most: int, now: float, first: int = 1) -> None:
        self._most = most
        self._wanted = min(first, most)
        self._began, self._base = now, 0
        self._patience = _FIRST_LOOK if first == 1 else _NEXT_LOOK
        #: Speed before the last step, and connections then; 0: there was none, or it has been judged.
        self._before, self._back = 0.0, 0

    @property
    def limit(self) -> int:
        """How many there should be as of the last look."""
        return self._wanted

    def wanted(self, now: float, received: int, left: int) -> int:
        """How many connections there should be, with *received* bytes here and *left* to come."""
        passed = now - self._began
        if passed < self._patience:
            return self._wanted
        speed = (received - self._base) / passed
        self._look_again(now, received, _NEXT_LOOK)
        if self._back and speed < self._before * _GAIN:
            # The way is no wider: the site is not to be troubled for nothing.
            self._most = self._wanted = self._back
        elif speed < SLOW * self._wanted < SLOW * self._most and left > speed * _WORTHWHILE_SECONDS:
            self._before, self._back = speed, self._wanted
            self._wanted = min(max(_FIRST_STEP, 2 * self._wanted), self._most)
            return self._wanted
        self._back = 0
        return self._wanted

    def refused(self, now: float, received: int, working: int, *, for_good: bool) -> None:
        """The site refused one of *working* connections, *for_good* or just now: fewer, then."""
        self._wanted = max(1, min(self._wanted, working - 1))
        self._back = 0
        if for_good:
            self._most = self._wanted
        self._look_again(now, received, _CALM_SECONDS)

    def _look_again(self, now: float, received: int, patience: float) -> None:
        self._began, self._base, self._patience = now, received, patience
