"""Client libraries of the JSON API: ``Client``, and ``AsyncClient`` for asyncio.

    with Client("http://127.0.0.1:8080") as client:
        for saved in client.download("https://…", "videos", quality="1080p"):
            print(saved.path)

``reelhaul.client`` has the same methods, results and errors over gRPC. docs/clients.md shows both.
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
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.existing_files import OnExists, SaveFailed
from reelhaul.requests import DownloadOptions, DownloadRequest
from reelhaul.rest._client import AsyncClient, Client

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
