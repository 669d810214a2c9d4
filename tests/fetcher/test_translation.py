"""Translated subtitles: by the site, by the configured translator, or a warning."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import pytest_asyncio
from tests.fetcher.conftest import Harness, open_harness
from tests.fetcher.fakes import FakeTranslator
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.clients.libretranslate import LibreTranslate
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Subtitles = FormatSpec.Subtitles
ONLY = FormatSpec.SUBTITLES_ONLY


class _LibreTranslateHandler(BaseHTTPRequestHandler):
    """LibreTranslate's ``/translate``: puts the language in front of each text."""

    requests: list[dict[str, Any]]
    fault = ""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(request)
        body = {"translatedText": [f"[{request['target']}] {text}" for text in request["q"]]}
        if self.fault == "short":
            body["translatedText"].pop()
        status = {"unknown": 400, "broken": 500}.get(self.fault, 200)
        response = b"x" * 2_000_000 if self.fault == "long" else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def libretranslate(fault: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a LibreTranslate; yield its URL and the requests that it received."""
    requests: list[dict[str, Any]] = []
    handler = type("Handler", (_LibreTranslateHandler,), {"requests": requests, "fault": fault})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def translating_harness(
    engine_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness with a translator."""
    config = GuardConfig(allow_networks=("127.0.0.2/32",))
    workdir = tmp_path_factory.mktemp("work")
    async with open_harness(engine_environment, workdir, config, translator=FakeTranslator()) as harness:
        yield harness


@pytest.mark.parametrize(("kinds", "name"), [(Subtitles.MANUAL, "talk"), (Subtitles.AUTO, "asronly")])
async def test_translation_by_the_site(
    youtube_harness: Harness, youtube: YouTube, kinds: Subtitles.Kinds.ValueType, name: str
) -> None:
    """YouTube's translation of manual and of automatic subtitles is one more track."""
    subtitles = Subtitles(languages=["en"], kinds=kinds, translate_to="fr")
    report = await youtube_harness.fetch(
        youtube.watch_url(name, copy=7), FormatSpec(media_kind=ONLY, subtitles=subtitles)
    )
    assert [p.info.language_code for p in report.products] == ["en", "fr"]
    assert list(report.delivered.subtitle_language_codes) == ["en", "fr"]
    text = report.products[1].path.read_text()
    assert text.count("[fr] this is line") == 20
    assert text.count(" --> ") == 20
    assert list(report.warnings) == []


async def test_translations_are_not_automatic_captions(youtube_harness: Harness, youtube: YouTube) -> None:
    """A language that YouTube can only translate to is not delivered as automatic captions."""
    subtitles = Subtitles(languages=["ja", "en"], kinds=Subtitles.BOTH)
    report = await youtube_harness.fetch(
        youtube.watch_url("asronly", copy=7), FormatSpec(media_kind=ONLY, subtitles=subtitles)
    )
    assert [p.info.language_code for p in report.products] == ["en"]
    assert [(w.reason, w.language_code) for w in report.warnings] == [(Warned.SUBTITLES_MISSING, "ja")]


async def test_all_languages(youtube_harness: Harness, youtube: YouTube) -> None:
    """``all`` means all manual tracks and the automatic one, without translations or duplicate names."""
    subtitles = Subtitles(languages=["all"])
    report = await youtube_harness.fetch(
        youtube.watch_url("talk", copy=7), FormatSpec(media_kind=ONLY, subtitles=subtitles)
    )
    assert [p.info.file_name for p in report.products] == [
        "A talk of twenty lines.en.srt",
        "A talk of twenty lines.de.srt",
        "A talk of twenty lines.en.auto.srt",
    ]


async def test_translation_by_the_translator(translating_harness: Harness, site: Site) -> None:
    """Without a translation by the site, the translator's result keeps the times and is embedded."""
    subtitles = Subtitles(languages=["de"], formats=[Subtitles.JSON], translate_to="nl", embed=True)
    report = await translating_harness.fetch(
        site.url("/watch/demo"), FormatSpec(max_height=360, subtitles=subtitles)
    )
    german, dutch = (json.loads(product.path.read_text()) for product in report.products[1:])
    assert [cue["text"] for cue in dutch] == [f"[nl] {cue['text']}" for cue in german]
    assert [cue["start"] for cue in dutch] == [cue["start"] for cue in german]


@pytest.mark.parametrize("required", [False, True])
async def test_no_translator(harness: Harness, site: Site, required: bool) -> None:
    """Without a translator the result has a warning; a required translation fails the fetch."""
    subtitles = Subtitles(languages=["en"], translate_to="nl", required=required)
    fetch = harness.fetch(site.url("/watch/demo"), FormatSpec(media_kind=ONLY, subtitles=subtitles))
    if not required:
        report = await fetch
        assert [(w.reason, w.language_code) for w in report.warnings] == [(Warned.TRANSLATION_MISSING, "nl")]
        return
    with pytest.raises(ReelhaulError) as failure:
        await fetch
    assert failure.value.reason == ErrorReason.TRANSLATION_UNAVAILABLE
    assert failure.value.metadata["language"] == "nl"


async def test_no_subtitles(youtube_harness: Harness, youtube: YouTube) -> None:
    """SUBTITLES_ONLY of media without subtitles fails; it does not succeed without files."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(
            youtube.watch_url("nocaptions"), FormatSpec(media_kind=ONLY, subtitles=Subtitles())
        )
    assert failure.value.reason == ErrorReason.SUBTITLES_UNAVAILABLE


async def test_libretranslate() -> None:
    """Texts are sent in batches of limited size, with the API key, and returned one for one."""
    texts = [f"line {number} {'x' * 200}" for number in range(120)]
    with libretranslate() as (url, requests):
        async with LibreTranslate.open(url, "secret") as translator:
            translated = await translator.translate(texts, "en-GB", "fr")
    assert translated == [f"[fr] {text}" for text in texts]
    assert max(sum(map(len, request["q"])) for request in requests) <= 4000
    assert {(r["source"], r["target"], r["api_key"]) for r in requests} == {("en", "fr", "secret")}


@pytest.mark.parametrize("fault", ["unknown", "broken", "short", "long"])
async def test_libretranslate_faults(fault: str) -> None:
    """An unknown language, an error, and a too short or too long response: TRANSLATION_UNAVAILABLE."""
    with libretranslate(fault) as (url, _):
        async with LibreTranslate.open(url) as translator:
            with pytest.raises(ReelhaulError) as failure:
                await translator.translate(["one", "two"], "en", "fr")
    assert failure.value.reason == ErrorReason.TRANSLATION_UNAVAILABLE


async def test_libretranslate_unreachable() -> None:
    """An unreachable translator: TRANSLATION_UNAVAILABLE."""
    async with LibreTranslate.open("http://127.0.0.1:9") as translator:
        with pytest.raises(ReelhaulError) as failure:
            await translator.translate(["one"], "en", "fr")
    assert failure.value.reason == ErrorReason.TRANSLATION_UNAVAILABLE
