"""Few extractors are asked whether they know a URL, and it is the same one that says yes."""

from __future__ import annotations

from typing import Any

import pytest
from yt_dlp import YoutubeDL

from reelhaul_fetcher.ytdlp.extractor_index import ExtractorIndex, patterns

# Of the examples that extractors bring, one in so many: all of them take a minute.
_ONE_IN = 11


@pytest.fixture(scope="module")
def extractors() -> dict[str, Any]:
    """All that there are, in their order of rank."""
    with YoutubeDL({"quiet": True}) as downloader:
        return dict(downloader._ies)


@pytest.fixture(scope="module")
def likely(extractors: dict[str, Any]) -> ExtractorIndex:
    """What is known of them."""
    return ExtractorIndex(patterns(extractors))


def test_the_same_extractor(extractors: dict[str, Any], likely: ExtractorIndex) -> None:
    """Of the examples that extractors bring of themselves, each goes to whom it went to."""
    examples = [
        example["url"]
        for extractor in extractors.values()
        for example in extractor.get_testcases(include_onlymatching=True)
    ]
    assert len(examples) > 1000
    for url in examples[::_ONE_IN]:
        able = (name for name, extractor in extractors.items() if extractor.suitable(url))
        assert next(able) == next(name for name in likely.of(url) if extractors[name].suitable(url)), url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://www.youtube.com/watch?v=BaW_jenozKc", "Youtube"),
        ("https://youtu.be/BaW_jenozKc?list=PLwiyx1dc3P2JR9N8gQaQN_BCvlSlap7re", "YoutubeYtBe"),
        ("https://vimeo.com/56015672", "Vimeo"),
        ("https://media.example.com/film.mp4", "Generic"),
    ],
)
def test_the_usual(extractors: dict[str, Any], likely: ExtractorIndex, url: str, name: str) -> None:
    """What everyone asks for is found, and few are asked."""
    few = likely.of(url)
    assert next(each for each in few if extractors[each].suitable(url)) == name
    assert len(few) < 80
