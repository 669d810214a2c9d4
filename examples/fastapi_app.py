"""A web application that lets its users download videos, with Reelhaul behind it.

    pip install reelhaul fastapi uvicorn
    uvicorn fastapi_app:app

The application keeps no state of its own: the label `user` says whose a job is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, HttpUrl

from reelhaul.rest import AsyncClient, CallFailed, Download


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for all requests; it keeps its connections open."""
    async with AsyncClient.from_env() as client:
        app.state.reelhaul = client
        yield


app = FastAPI(lifespan=lifespan)


def get_client(request: Request) -> AsyncClient:
    client: AsyncClient = request.app.state.reelhaul
    return client


def get_user(x_user: Annotated[str, Header()]) -> str:
    """Return who calls; in a real application, from a session."""
    return x_user


Client = Annotated[AsyncClient, Depends(get_client)]
User = Annotated[str, Depends(get_user)]


class VideoRequest(BaseModel):
    url: HttpUrl
    quality: str = "1080p"


@app.exception_handler(CallFailed)
async def show_failure(_request: Request, failure: CallFailed) -> JSONResponse:
    """Tell the user what Reelhaul rejected and what to do; its own outages are ours."""
    status = 503 if failure.transient else 400
    return JSONResponse(
        {"reason": failure.reason, "message": failure.message, "remedy": failure.remedy}, status
    )


@app.post("/videos", status_code=202)
async def create_video(video: VideoRequest, client: Client, user: User) -> dict[str, Any]:
    """Start a download. It is safe from now on, also if this application restarts."""
    return describe(await client.create(str(video.url), quality=video.quality, labels={"user": user}))


@app.get("/videos/{job_id}")
async def get_video(job_id: str, client: Client, user: User) -> dict[str, Any]:
    return describe(await find(client, job_id, user))


@app.get("/videos/{job_id}/progress")
async def watch_video(job_id: str, client: Client, user: User) -> StreamingResponse:
    """Stream the progress in percent, one number per line, until the download ends."""
    await find(client, job_id, user)

    async def lines() -> AsyncIterator[str]:
        async for event in client.watch(job_id, min_interval=1):
            if event.kind == "progress" and event.message.progress.HasField("progress_percent"):
                yield f"{event.message.progress.progress_percent:.0f}\n"
        yield "end\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/videos/{job_id}/file")
async def get_file(job_id: str, client: Client, user: User) -> RedirectResponse:
    """Lead to a link that works for ten minutes without a key: the bytes do not pass this application."""
    job = await find(client, job_id, user)
    if not job.files:
        raise HTTPException(409, "the download has not succeeded yet")
    artifact = job.files[0].url.rpartition("/")[2].removesuffix(":download")
    link = await client.jobs.sign_url(artifact, ttl_seconds=600)
    return RedirectResponse(link.url)


async def find(client: AsyncClient, job_id: str, user: str) -> Download:
    """Return the job if it is the user's."""
    job = await client.get(job_id)
    if job.labels.get("user") != user:
        raise HTTPException(404, "no such video")
    return job


def describe(job: Download) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "title": job.title or job.url,
        "status": Download.Status.Name(job.status),
        "error": job.error.message or None,
    }
