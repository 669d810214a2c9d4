"""Who is shown what: an answer about a video differs by client, by viewer, and by the hour."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sites.youtube.catalogue import PLAYS, Playability, Video

#: Clients that are told everything about a video, but no URLs: they are to speak YouTube's own protocol.
WEB = {"WEB", "MWEB", "WEB_REMIX", "WEB_CREATOR"}


@dataclass(frozen=True)
class Showing:
    """One answer about a video, to one viewer."""

    video: Video
    #: The client's name, e.g. ``WEB``.
    client: str
    #: Grows with each answer about the video; its URLs carry it.
    serial: int
    #: Seconds until it begins; 0: it has begun, or always was there.
    begins_in: float = 0
    on_air: bool = False
    signed_in: bool = False

    @property
    def playability(self) -> Playability:
        """Whether this viewer may play it now."""
        if self.begins_in > 0:
            hours = round(self.begins_in / 3600)
            when = f"{hours} hours" if hours else f"{round(self.begins_in)} seconds"
            return Playability("LIVE_STREAM_OFFLINE", f"This live event will begin in {when}.")
        embedded = self.client == "WEB_EMBEDDED_PLAYER" and self.video.embed_opens
        opened = embedded or (self.video.member_opens and self.signed_in)
        return PLAYS if opened else self.video.playability
