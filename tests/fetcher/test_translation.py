"""Subtitles in other languages: the site's own translation, a translator of ours, or a warning."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import pytest_asyncio
from tests.fetcher.conftest import Harness
from tests.fetcher.fakes import FakeTranslator
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.clients.libretranslate import LibreTranslate
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Subtitles = FormatSpec.Subtitles
ONLY = FormatSpec.SUBTITLES_ONLY


class _Libre(BaseHTTPRequestHandler):
    """LibreTranslate's ``/translate``: writes the language in front of each text."""

    asked: list[dict[str, Any]]
    fault = ""

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(told)
        body = {"translatedText": [f"[{told['target']}] {text}" for text in told["q"]]}
        if self.fault == "short":
            body["translatedText"].pop()
        status = {"unknown": 400, "broken": 500}.get(self.fault, 200)
        answer = b"x" * 2_000_000 if self.fault == "long" else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def libre(fault: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A LibreTranslate of our own: its URL, and what it was asked."""
    asked: list[dict[str, Any]] = []
    handler = type("Handler", (_Libre,), {"asked": asked, "fault": fault})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def polyglot(
    engine_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness that has a translator."""
    async with (
        running_guard(GuardConfig(allow_networks=("127.0.0.2/32",))) as guard,
        YtDlpEngine.open(engine_environment, "test-worker", translator=FakeTranslator()) as engine,
    ):
        await engine.wait_until_warm()
        yield Harness(engine, guard, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize(("kinds", "name"), [(Subtitles.MANUAL, "talk"), (Subtitles.AUTO, "asronly")])
async def test_the_site_translates(
    youtube_harness: Harness, youtube: YouTube, kinds: Subtitles.Kinds.ValueType, name: str
) -> None:
    """YouTube's own translation of what people wrote, and of what was heard, is one more track."""
    asked = Subtitles(languages=["en"], kinds=kinds, translate_to="fr")
    report = await youtube_harness.fetch(
        youtube.watch_url(name, copy=7), FormatSpec(media_kind=ONLY, subtitles=asked)
    )
    assert [p.info.language_code for p in report.products] == ["en", "fr"]
    assert list(report.delivered.subtitle_language_codes) == ["en", "fr"]
    text = report.products[1].path.read_text()
    assert text.count("[fr] this is line") == 20
    assert text.count(" --> ") == 20
    assert list(report.warnings) == []


async def test_translated_captions_are_not_heard_ones(youtube_harness: Harness, youtube: YouTube) -> None:
    """A language that YouTube's machine could translate to is not one that was spoken."""
    asked = Subtitles(languages=["ja", "en"], kinds=Subtitles.BOTH)
    report = await youtube_harness.fetch(
        youtube.watch_url("asronly", copy=7), FormatSpec(media_kind=ONLY, subtitles=asked)
    )
    assert [p.info.language_code for p in report.products] == ["en"]
    assert [(w.reason, w.language_code) for w in report.warnings] == [(Warned.SUBTITLES_MISSING, "ja")]


async def test_all_languages(youtube_harness: Harness, youtube: YouTube) -> None:
    """All are those that people wrote and the one that was heard, none translated, no name twice."""
    asked = Subtitles(languages=["all"])
    report = await youtube_harness.fetch(
        youtube.watch_url("talk", copy=7), FormatSpec(media_kind=ONLY, subtitles=asked)
    )
    assert [p.info.file_name for p in report.products] == [
        "A talk of twenty lines.en.srt",
        "A talk of twenty lines.de.srt",
        "A talk of twenty lines.en.auto.srt",
    ]


async def test_our_translator_translates(polyglot: Harness, site: Site) -> None:
    """Where the site has no translation, the translator's keeps the times, and is embedded as well."""
    asked = Subtitles(languages=["de"], formats=[Subtitles.JSON], translate_to="nl", embed=True)
    report = await polyglot.fetch(site.url("/watch/demo"), FormatSpec(max_height=360, subtitles=asked))
    german, dutch = (json.loads(product.path.read_text()) for product in report.products[1:])
    assert [cue["text"] for cue in dutch] == [f"[nl] {cue['text']}" for cue in german]
    assert [cue["start"] for cue in dutch] == [cue["start"] for cue in german]


@pytest.mark.parametrize("required", [False, True])
async def test_nobody_translates(harness: Harness, site: Site, required: bool) -> None:
    """Without a translator the lack is a warning, or the end where the translation was required."""
    asked = Subtitles(languages=["en"], translate_to="nl", required=required)
    fetch = harness.fetch(site.url("/watch/demo"), FormatSpec(media_kind=ONLY, subtitles=asked))
    if not required:
        report = await fetch
        assert [(w.reason, w.language_code) for w in report.warnings] == [(Warned.TRANSLATION_MISSING, "nl")]
        return
    with pytest.raises(ReelhaulError) as failure:
        await fetch
    assert failure.value.reason == ErrorReason.TRANSLATION_UNAVAILABLE
    assert failure.value.metadata["language"] == "nl"


async def test_no_subtitles_at_all(youtube_harness: Harness, youtube: YouTube) -> None:
    """A transcript of what has no subtitles is a failure, not a success without files."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(
            youtube.watch_url("nocaptions"), FormatSpec(media_kind=ONLY, subtitles=Subtitles())
        )
    assert failure.value.reason == ErrorReason.SUBTITLES_UNAVAILABLE


async def test_libretranslate() -> None:
    """Texts go in batches of bounded size, with the key, and come back one for one."""
    texts = [f"line {number} {'x' * 200}" for number in range(120)]
    with libre() as (url, asked):
        async with LibreTranslate.open(url, "secret") as translator:
            done = await translator.translate(texts, "en-GB", "fr")
    assert done == [f"[fr] {text}" for text in texts]
    assert max(sum(map(len, told["q"])) for told in asked) <= 4000
    assert {(told["source"], told["target"], told["api_key"]) for told in asked} == {("en", "fr", "secret")}


@pytest.mark.parametrize("fault", ["unknown", "broken", "short", "long"])
async def test_libretranslate_fails(fault: str) -> None:
    """A language that it does not know, an error, an answer too short or too long: all are no translation."""
    with libre(fault) as (url, _):
        async with LibreTranslate.open(url) as translator:
            with pytest.raises(ReelhaulError) as failure:
                await translator.translate(["one", "two"], "en", "fr")
    assert failure.value.reason == ErrorReason.TRANSLATION_UNAVAILABLE


async def test_libretranslate_away() -> None:
    """A translator that is not there is no translation."""
    async with LibreTranslate.open("http://127.0.0.1:9") as translator:
        with pytest.raises(ReelhaulError) as failure:
            await translator.translate(["one"], "en", "fr")
    assert failure.value.reason == ErrorReason.TRANSLATION_UNAVAILABLE
