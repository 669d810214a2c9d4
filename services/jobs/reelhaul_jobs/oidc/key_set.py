"""Key set: the public keys of an issuer, fetched by HTTP and kept (RFC 7517, OpenID Connect Discovery)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import orjson

from reelhaul_runtime.auth.oidc_settings import check_provider_url
from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.logs import Outage

log = logging.getLogger(__name__)

#: Seconds that the requests for the keys may take in all, fewer than VerifyApiKey has; bytes of a response.
REQUEST_SECONDS = 4.0
_MAX_BYTES = 256 << 10
_MAX_KEYS = 100
# Keys are fetched again after an hour, and at an unknown key id, but not more often than every 30 seconds.
_MAX_AGE_SECONDS, _MIN_INTERVAL_SECONDS = 3600.0, 30.0
_MIN_RSA_BITS = 2048
_DISCOVERY = "/.well-known/openid-configuration"
#: The type of key of each algorithm that is accepted. No algorithm is symmetric: an issuer's public key, or
#: none, could sign then.
ALGORITHMS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


class KeySet:
    """The keys of the issuer *issuer*, at *jwks_url* or where its discovery document says.

    While the issuer does not answer, the keys that are known stay valid. *clock* is monotonic.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        issuer: str,
        jwks_url: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._issuer, self._jwks_url, self._clock = client, issuer, jwks_url, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetch_time = self._attempt_time = float("-inf")
        self._lock = asyncio.Lock()
        self._outage = Outage()

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key with the id *key_id*; without an id, the only one. None if there is none.

        Raises SERVICE_UNAVAILABLE if no keys are known, and they cannot be fetched.
        """
        key = self._get(key_id)
        if key is None or (self._is_old() and not self._lock.locked()):
            async with self._lock:
                # Another call may have fetched them meanwhile.
                if self._get(key_id) is None or self._is_old():
                    await self._fetch()
            key = self._get(key_id)
        return key

    def _get(self, key_id: str) -> jwt.PyJWK | None:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _is_old(self) -> bool:
        return self._clock() - self._fetch_time > _MAX_AGE_SECONDS

    async def _fetch(self) -> None:
        now = self._clock()
        if now - self._attempt_time < _MIN_INTERVAL_SECONDS:
            if self._fetch_time == float("-inf"):
                raise _unavailable()
            return
        self._attempt_time = now
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                url = self._jwks_url or await self._discover()
                self._keys = _parse_keys(await self._get_json(url))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            if (level := self._outage.level()) is not None:
                cause = {"issuer": self._issuer, "cause": repr(error)}
                log.log(level, "the keys of the issuer cannot be fetched", extra=cause)
            if self._fetch_time == float("-inf"):
                raise _unavailable() from error
            return
        self._outage.end()
        self._fetch_time = now

    async def _discover(self) -> str:
        """Return the URL of the keys. https://openid.net/specs/openid-connect-discovery-1_0.html"""
        document = await self._get_json(self._issuer.rstrip("/") + _DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise ValueError("the discovery document is of another issuer")
        return check_provider_url(str(document.get("jwks_uri", "")))

    async def _get_json(self, url: str) -> dict[str, Any]:
        body = bytearray()
        async with self._client.stream("GET", url, headers={"accept": "application/json"}) as response:
            response.raise_for_status()
            async for data in response.aiter_bytes():
                body += data
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"{url} answers more than {_MAX_BYTES} bytes")
        document = orjson.loads(body)
        if not isinstance(document, dict):
            raise ValueError(f"{url} answers no JSON object")  # noqa: TRY004 - a fault of the issuer
        return document


def _parse_keys(document: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """Return the keys for signatures in *document*, by id; those of other kinds are left out."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("the key set has no keys")  # noqa: TRY004 - a fault of the issuer
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries[:_MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError as error:
            log.debug("a key of the issuer is not usable", extra={"cause": repr(error)})
            continue
        if ALGORITHMS.get(key.algorithm_name) == entry.get("kty") and _is_long_enough(key):
            keys[str(entry.get("kid", ""))] = key
    return keys


def _is_long_enough(key: jwt.PyJWK) -> bool:
    return key.key_type != "RSA" or key.key.key_size >= _MIN_RSA_BITS


def _unavailable() -> Unavailable:
    return Unavailable("oidc", "the keys of the identity provider cannot be fetched now")
