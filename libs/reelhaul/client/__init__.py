"""The gRPC API from Python: start jobs, follow them through disconnects, save their files.

    async with Client("127.0.0.1:50051", storage="127.0.0.1:50053") as client:
        job = await client.create("https://…", format={"max_height": 1080})
        async for message in client.watch(job.name):
            ...
        path = await client.download("https://…", Path("film.mp4"))

Programs that speak JSON take ``reelhaul.rest``; what this leaves out, the stubs of
``reelhaul.jobs.v1`` and the like have.
"""

from reelhaul.client._client import Client
from reelhaul.client._errors import CallFailed, JobFailed, SaveFailed

__all__ = ["CallFailed", "Client", "JobFailed", "SaveFailed"]
