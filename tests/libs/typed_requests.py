"""Calls that mypy accepts, and calls that it rejects: test_requests.py compares the lines that say so."""

from __future__ import annotations

from datetime import datetime

from reelhaul.client import AsyncClient
from reelhaul.requests import DownloadRequest
from reelhaul.rest import Client


def use(client: Client, when: datetime) -> None:
    client.create("https://a.example/", quality="1080p", subtitle_formats=["srt", "txt"], schedule_time=when)
    client.create("https://a.example/", qualty="1080p")  # wrong
    client.create("https://a.example/", max_fps="30")  # wrong
    client.download("https://a.example/", "videos", on_exists="overwrite")  # wrong
    client.wait("0", if_abandoned="ignore")  # wrong
    job: DownloadRequest = {"url": "https://a.example/", "labels": {"team": "a"}}
    client.create_batch([job, {"url": "https://b.example/", "live": "record"}], partial=True)
    client.create_batch([{"url": "https://b.example/", "subtitels": True}])  # wrong
    for each in client.iterate(status=["FAILED"]):
        print(each.titel)  # wrong


async def use_async(client: AsyncClient) -> None:
    job = await client.create("https://a.example/", audio_only=True)
    await client.create("https://a.example/", audio=True)  # wrong
    async for event in client.watch(job.job_id):
        print(event.kind, event.message.progress.progress_percent)
