"""The JSON API from Python: start downloads, follow them through disconnects, save their files.

    with Client("http://127.0.0.1:8080") as client:
        job = client.create({"url": "https://…", "quality": "1080p"})
        for event in client.watch(job.job_id):
            ...
        for file in client.get(job.job_id).files:
            client.save(file, Path("downloads"))

Programs that speak gRPC take the stubs of ``reelhaul.jobs.v1`` and the like instead.
"""

from reelhaul.rest._client import Client
from reelhaul.rest._errors import CallFailed, SaveFailed
from reelhaul.rest._save import Saved
from reelhaul.rest._watch import Event

__all__ = ["CallFailed", "Client", "Event", "SaveFailed", "Saved"]
