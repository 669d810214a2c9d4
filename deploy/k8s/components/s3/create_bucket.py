"""Create the bucket of REELHAUL_STORAGE_URL, unless it exists."""

import os
import time
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

_TRIES = 30


def main() -> None:
    """Create it; a server that has just started may need some seconds."""
    url = urlsplit(os.environ["REELHAUL_STORAGE_URL"])
    options = {name: values[0] for name, values in parse_qs(url.query).items()}
    client = boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name=options["region"],
        config=Config(s3={"addressing_style": "path"}, connect_timeout=5, retries={"total_max_attempts": 1}),
    )
    for attempt in range(1, _TRIES + 1):
        try:
            if url.hostname not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=url.hostname)
        except (BotoCoreError, ClientError):
            if attempt == _TRIES:
                raise
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    main()
