"""The secrets of webhooks: created, and sealed for the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.webhook import create_secret
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sealing import Sealer


class WebhookSecrets:
    """Creates and unseals secrets; *load_keys* is called when the first one is needed."""

    def __init__(self, load_keys: Callable[[], tuple[str, ...]]) -> None:
        self._load_keys = load_keys
        self._sealer: Sealer | None = None

    async def create(self) -> tuple[str, bytes]:
        """Return a new secret, plain and sealed."""
        secret = create_secret()
        return secret, (await self._loaded_sealer()).seal(secret.encode())

    async def unseal(self, webhook: str, sealed: bytes) -> str:
        """Return the secret of *webhook*, by name. Raises DESTINATION_REFUSED if no key unseals it."""
        secret = (await self._loaded_sealer()).unseal(sealed)
        if secret is None:
            raise ReelhaulError(
                ErrorReason.DESTINATION_REFUSED,
                f"the secret of {webhook} cannot be decrypted: REELHAUL_JOBS_SEAL_KEYS must have the key that"
                " was used when it was created",
                metadata={"destination": webhook, "cause": "seal"},
            )
        return secret.decode()

    async def _loaded_sealer(self) -> Sealer:
        if self._sealer is None:
            self._sealer = await asyncio.to_thread(lambda: Sealer(self._load_keys()))
        return self._sealer
