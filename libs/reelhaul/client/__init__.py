"""gRPC client for Python: start jobs, watch them through disconnects, save their files.

    async with Client("127.0.0.1:50051", storage="127.0.0.1:50053") as client:
        job = await client.create("https://…", format={"max_height": 1080})
        async for message in client.watch(job.name):
            ...
        path = await client.download("https://…", Path("video.mp4"))

``reelhaul.rest`` is the client of the JSON API. Methods that this client lacks are in the generated
stubs of ``reelhaul.jobs.v1`` and the other proto packages.
"""

from reelhaul._core.errors import CallFailed, SaveFailed
from reelhaul.client._client import Client
from reelhaul.client._errors import JobFailed

__all__ = ["CallFailed", "Client", "JobFailed", "SaveFailed"]
