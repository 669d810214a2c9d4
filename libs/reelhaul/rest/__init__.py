"""REST client for Python: start downloads, watch them through disconnects, save their files.

    with Client("http://127.0.0.1:8080") as client:
        job = client.create({"url": "https://…", "quality": "1080p"})
        for event in client.watch(job.job_id):
            ...
        for file in client.get(job.job_id).files:
            client.save(file, Path("downloads"))

It calls the JSON API of the gateway; ``reelhaul.client`` is the client of the gRPC API.
"""

from reelhaul._core.errors import CallFailed, SaveFailed
from reelhaul.rest._client import Client
from reelhaul.rest._save import Saved
from reelhaul.rest._watch import Event

__all__ = ["CallFailed", "Client", "Event", "SaveFailed", "Saved"]
