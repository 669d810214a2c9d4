"""Translators: a client of LibreTranslate's HTTP API, and the one that is used without a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

_REQUEST_SECONDS = 30.0
_TOTAL_SECONDS = 300.0
_BATCH_TEXTS, _BATCH_CHARACTERS = 50, 4000
_MAX_CHARACTERS = 500_000
_MAX_RESPONSE_BYTES = 1024 * 1024


class NoTranslator:
    """``ports.Translator`` without a service: always raises TRANSLATION_UNAVAILABLE."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        raise _unavailable(target, "the site has no translation, and no translator is configured")


class LibreTranslate:
    """``ports.Translator`` on the operator's service at *url*, which is not requested through the guard."""

    def __init__(self, client: httpx.AsyncClient, url: str, api_key: str = "") -> None:
        self._client, self._url, self._api_key = client, f"{url.rstrip('/')}/translate", api_key

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, api_key: str = "") -> AsyncIterator[LibreTranslate]:
        """Connect to the service at *url* until the block exits."""
        # The environment's proxies are ignored: proxies come from the settings only.
        async with httpx.AsyncClient(timeout=_REQUEST_SECONDS, trust_env=False) as client:
            yield cls(client, url, api_key)

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Translate in batches, within five minutes in all."""
        if sum(map(len, texts)) > _MAX_CHARACTERS:
            raise _unavailable(target, "the subtitles are too long to be translated")
        translated: list[str] = []
        try:
            async with asyncio.timeout(_TOTAL_SECONDS):
                for batch in _split_batches(texts):
                    translated += await self._translate_batch(batch, source, target)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise _unavailable(target, f"the translator failed ({type(error).__name__})") from error
        return translated

    async def _translate_batch(self, texts: list[str], source: str, target: str) -> list[str]:
        request = {
            "q": texts,
            "source": _language_code(source) or "auto",
            "target": _language_code(target),
            "format": "text",
        }
        if self._api_key:
            request["api_key"] = self._api_key
        body = bytearray()
        async with self._client.stream("POST", self._url, json=request) as response:
            if response.status_code == httpx.codes.BAD_REQUEST:
                raise _unavailable(target, f"the translator cannot translate from {source} to {target}")
            response.raise_for_status()
            async for data in response.aiter_bytes():
                body += data
                if len(body) > _MAX_RESPONSE_BYTES:
                    raise ValueError("the translator's response is too long")
        content = httpx.Response(200, content=bytes(body)).json()
        translated = content.get("translatedText") if isinstance(content, dict) else None
        if not isinstance(translated, list) or len(translated) != len(texts):
            raise ValueError("the translator's response does not match the request")
        return [str(text) for text in translated]


def _split_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) >= _BATCH_TEXTS or characters + len(text) > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _language_code(language: str) -> str:
    """Return LibreTranslate's code for *language*: the bare language, but for the scripts of Chinese."""
    return language if language.startswith("zh-") else language.partition("-")[0].lower()


def _unavailable(target: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": target})
