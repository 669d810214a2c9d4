"""Translators: a service that speaks LibreTranslate's HTTP API, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

_REQUEST_SECONDS = 30.0
_WHOLE_SECONDS = 300.0
_BATCH_TEXTS, _BATCH_LETTERS = 50, 4000
_MAX_LETTERS = 500_000
_MAX_ANSWER = 1024 * 1024


class NoTranslator:
    """Where no service is configured."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As ``ports.Translator.translate``: always TRANSLATION_UNAVAILABLE."""
        raise _unavailable(target, "the site has no translation, and no translator is configured")


class LibreTranslate:
    """A service of our own at *url*: asked directly, not through the guard."""

    def __init__(self, client: httpx.AsyncClient, url: str, api_key: str = "") -> None:
        self._client, self._url, self._api_key = client, f"{url.rstrip('/')}/translate", api_key

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, api_key: str = "") -> AsyncIterator[LibreTranslate]:
        """The service at *url*, for as long as the block lasts."""
        # No proxy of the environment: it is configured here, or not at all.
        async with httpx.AsyncClient(timeout=_REQUEST_SECONDS, trust_env=False) as client:
            yield cls(client, url, api_key)

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As ``ports.Translator.translate``, in batches; within five minutes in all."""
        if sum(map(len, texts)) > _MAX_LETTERS:
            raise _unavailable(target, "the subtitles are too long to be translated")
        done: list[str] = []
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                for batch in _batches(texts):
                    done += await self._batch(batch, source, target)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise _unavailable(target, f"the translator failed ({type(error).__name__})") from error
        return done

    async def _batch(self, texts: list[str], source: str, target: str) -> list[str]:
        asked = {"q": texts, "source": _base(source) or "auto", "target": _base(target), "format": "text"}
        if self._api_key:
            asked["api_key"] = self._api_key
        body = bytearray()
        async with self._client.stream("POST", self._url, json=asked) as answer:
            if answer.status_code == httpx.codes.BAD_REQUEST:
                raise _unavailable(target, f"the translator has no way from {source} to {target}")
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MAX_ANSWER:
                    raise ValueError("the translator's answer is too long")
        told = httpx.Response(200, content=bytes(body)).json()
        translated = told.get("translatedText") if isinstance(told, dict) else None
        if not isinstance(translated, list) or len(translated) != len(texts):
            raise ValueError("the translator's answer is none to what was asked")
        return [str(text) for text in translated]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    letters = 0
    for text in texts:
        if batch and (len(batch) >= _BATCH_TEXTS or letters + len(text) > _BATCH_LETTERS):
            yield batch
            batch, letters = [], 0
        batch.append(text)
        letters += len(text)
    if batch:
        yield batch


def _base(language: str) -> str:
    """LibreTranslate's codes are bare, but for the scripts of Chinese."""
    return language if language.startswith("zh-") else language.partition("-")[0].lower()


def _unavailable(target: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": target})
