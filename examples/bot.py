"""A chat bot: `!get URL` downloads a video, and the bot's reply shows the progress until it has a link.

`on_message` fits discord.py and libraries like it:

    client = discord.Client(intents=...)

    @client.event
    async def on_message(message):
        await bot.on_message(message)
"""

from __future__ import annotations

import time
from typing import Protocol

from reelhaul.rest import AsyncClient, CallFailed, Event

_COMMAND = "!get "
# Chat platforms limit how often a message may be edited.
_EDIT_SECONDS = 2.0
_LINK_SECONDS = 24 * 3600


class Message(Protocol):
    """What the bot needs of a message of the chat library."""

    content: str

    async def reply(self, content: str) -> Message: ...

    async def edit(self, *, content: str) -> object: ...


class Bot:
    """Downloads for the people of a chat."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def on_message(self, message: Message) -> None:
        """Download the URL of a command, and reply with a link to the file, or with what to do."""
        if not message.content.startswith(_COMMAND):
            return
        reply = await message.reply("one moment …")
        try:
            text = await self._download(message.content.removeprefix(_COMMAND).strip(), reply)
        except CallFailed as failure:
            # `remedy` is a sentence for people; `message` may have text of the site.
            text = f"that did not work: {failure.message}. {failure.remedy}"
        await reply.edit(content=text)

    async def _download(self, url: str, reply: Message) -> str:
        # Small enough for a chat; a live stream or an opera is refused.
        job = await self._client.create(url, quality="720p", format="mp4", max_duration_seconds=3600)
        last_edit = time.monotonic()
        async for event in self._client.watch(job.job_id):
            if time.monotonic() - last_edit > _EDIT_SECONDS:
                last_edit = time.monotonic()
                await reply.edit(content=describe(event))
            if event.kind == "failed":
                error = event.message.failed.error
                return f"that did not work: {error.message} ({error.reason})"
            job = event.job or job
        artifact = job.files[0].url.rpartition("/")[2].removesuffix(":download")
        link = await self._client.jobs.sign_url(artifact, ttl_seconds=_LINK_SECONDS)
        return f"{job.title}: {link.url}"


def describe(event: Event) -> str:
    """Return the progress for people."""
    if event.kind == "progress" and event.message.progress.HasField("progress_percent"):
        return f"{event.message.progress.progress_percent:.0f} % …"
    return "waiting …"
