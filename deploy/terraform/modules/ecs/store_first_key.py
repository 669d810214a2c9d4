"""Create an API key for all access and store it in Secrets Manager, where SECRET names a secret.

Runs in the image `server` as the task `first-key` (docs/aws.md). The key is neither printed nor logged.
"""

import os
import subprocess

import boto3


def main() -> None:
    """Create the key and store it; the command's own errors go to the log."""
    environment = {name: value for name, value in os.environ.items() if name != "SECRET"}
    command = subprocess.run(
        ["reelhaul", "first-key"], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    client = boto3.client("secretsmanager", region_name=os.environ["AWS_REGION"])
    client.put_secret_value(SecretId=os.environ["SECRET"], SecretString=command.stdout.strip())
    print(f"the key is in {os.environ['SECRET']}")


if __name__ == "__main__":
    main()
