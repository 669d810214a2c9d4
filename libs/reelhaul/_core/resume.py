"""Resuming a watch: the position that survives disconnects, and the time-out of a silent stream."""

from __future__ import annotations

from reelhaul._core.errors import CallFailed
from reelhaul._core.retries import Retries

#: Seconds of silence after which the server sends a heartbeat.
HEARTBEAT_SECONDS = 5.0
#: A stream that misses this many heartbeats is dead, whatever TCP believes.
MISSED_HEARTBEATS = 3


class ResumePosition:
    """The position of a watch, kept across connections."""

    def __init__(self, retry_timeout: float, token: str = "") -> None:
        #: The resume_token for the next connection; empty starts from the present state.
        self.token = token
        self._initial_token = token
        self._retries = Retries(seconds=retry_timeout)

    def advance(self, token: str) -> None:
        """Note that a message with resume_token *token* has arrived."""
        self.token = token or self.token
        self._retries.reset()

    def next_delay(self, failure: CallFailed) -> float:
        """Return the seconds to wait before reconnecting; raise *failure* if that would not help."""
        if failure.reason == "RESUME_TOKEN_INVALID" and self.token not in ("", self._initial_token):
            # The token was valid when it was sent: the server has lost its history. Start again.
            self.token = ""
            return 0.0
        # A stream that reached its maximum duration is resumed like a broken one.
        return self._retries.next_delay(
            failure, transient=failure.transient or failure.reason == "REQUEST_TIMED_OUT"
        )
