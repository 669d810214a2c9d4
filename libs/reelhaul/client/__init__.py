"""Client libraries of the gRPC API: ``Client``, and ``AsyncClient`` for asyncio.

    with Client("127.0.0.1:50051", storage="127.0.0.1:50053") as client:
        for saved in client.download("https://…", "videos", quality="1080p"):
            print(saved.path)

``reelhaul.rest`` has the same methods, results and errors over HTTP. docs/clients.md shows both. RPCs without
a method here are in the generated stubs of ``reelhaul.jobs.v1`` and the other proto packages.
"""

from reelhaul._core.async_client import IfAbandoned, is_playlist
from reelhaul._core.errors import (
    CallFailed,
    Conflict,
    Exhausted,
    JobFailed,
    NotFound,
    PermissionDenied,
    RequestInvalid,
    Unauthenticated,
    Unavailable,
)
from reelhaul._core.save import Saved
from reelhaul._core.watch import Event
from reelhaul.client._client import AsyncClient, Client
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.existing_files import OnExists, SaveFailed
from reelhaul.requests import DownloadOptions, DownloadRequest

__all__ = [
    "AsyncClient",
    "CallFailed",
    "Client",
    "Conflict",
    "Download",
    "DownloadOptions",
    "DownloadRequest",
    "Event",
    "Exhausted",
    "File",
    "IfAbandoned",
    "JobFailed",
    "NotFound",
    "OnExists",
    "PermissionDenied",
    "RequestInvalid",
    "SaveFailed",
    "Saved",
    "Unauthenticated",
    "Unavailable",
    "is_playlist",
]
