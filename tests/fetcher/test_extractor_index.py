"""The extractor index leaves few extractors to try, and the one that yt-dlp would choose is among them."""

from __future__ import annotations

from typing import Any

import pytest
from yt_dlp import YoutubeDL

from reelhaul_fetcher.ytdlp.extract.extractor_index import ExtractorIndex, url_patterns

# Every n-th example of the extractors: all of them take a minute.
_STEP = 11


@pytest.fixture(scope="module")
def extractors() -> dict[str, Any]:
    """All extractors of yt-dlp, in order of precedence."""
    with YoutubeDL({"quiet": True}) as downloader:
        return dict(downloader._ies)


@pytest.fixture(scope="module")
def index(extractors: dict[str, Any]) -> ExtractorIndex:
    """The index of all extractors."""
    return ExtractorIndex(url_patterns(extractors))


def test_choice_of_yt_dlp(extractors: dict[str, Any], index: ExtractorIndex) -> None:
    """The example URLs of all extractors go to the extractor that yt-dlp itself chooses."""
    examples = [
        example["url"]
        for extractor in extractors.values()
        for example in extractor.get_testcases(include_onlymatching=True)
    ]
    assert len(examples) > 1000
    for url in examples[::_STEP]:
        expected = next(name for name, extractor in extractors.items() if extractor.suitable(url))
        actual = next(name for name in index.candidates(url) if extractors[name].suitable(url))
        assert expected == actual, url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://www.youtube.com/watch?v=BaW_jenozKc", "Youtube"),
        ("https://youtu.be/BaW_jenozKc?list=PLwiyx1dc3P2JR9N8gQaQN_BCvlSlap7re", "YoutubeYtBe"),
        ("https://vimeo.com/56015672", "Vimeo"),
        ("https://media.example.com/film.mp4", "Generic"),
    ],
)
def test_common_urls(extractors: dict[str, Any], index: ExtractorIndex, url: str, name: str) -> None:
    """Common URLs find their extractor among fewer than 80 candidates."""
    candidates = index.candidates(url)
    assert next(each for each in candidates if extractors[each].suitable(url)) == name
    assert len(candidates) < 80
