"""Mount a gRPC server with reflection below /api of a FastAPI application: uvicorn mount:app."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from fastapi import FastAPI

from reelhaul_transcoding import GrpcUpstream, Options, Transcoder, services_of_server

TARGET = os.environ.get("TARGET", "127.0.0.1:50051")


@asynccontextmanager
async def mount_services(app: FastAPI) -> AsyncIterator[None]:
    """Serve the server's methods, with one channel to it, while the application runs."""
    services = await asyncio.to_thread(services_of_server, grpc.insecure_channel(TARGET))
    async with grpc.aio.insecure_channel(TARGET) as channel:
        upstream = GrpcUpstream(channel)
        transcoder = Transcoder([(each, upstream) for each in services], Options(auto_mapping=True))
        app.mount("/api", transcoder)
        yield
        # Streams would keep the server from stopping.
        transcoder.drain()


app = FastAPI(lifespan=mount_services)


@app.get("/about")
async def describe() -> dict[str, str]:
    """Answer beside the gRPC methods."""
    return {"server": TARGET}
