"""Extractor index: finds the few of 1,700 extractors that may match a URL, without touching the others.

yt-dlp tries the pattern of each extractor in turn. In a forked child that costs more than a small download,
because trying an extractor changes its reference count, and the kernel copies every page that is written to.
Without the index, jobs of 100 KB run at 5.7 instead of 7.0 times the rate of the command line
(``make bench-fetch``), and a child takes 49 instead of 43 MB.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

# The only parser of regular expressions in Python; test_extractor_index compares the results with yt-dlp's.
from re import _parser  # type: ignore[attr-defined]
from typing import Any

# Longer words are cut to this length.
_MAX_WORD_LENGTH = 12

#: Words of which every match of a pattern contains at least one.
Words = frozenset[str]


class ExtractorIndex:
    """Extractors by the words that their patterns require of a URL."""

    def __init__(self, patterns: Mapping[str, Iterable[str]]) -> None:
        """*patterns* holds the URL patterns of each extractor, in yt-dlp's order of precedence."""
        self._ranks = {name: rank for rank, name in enumerate(patterns)}
        #: Extractors with a pattern that requires no word.
        self._unindexed: list[str] = []
        by_word = defaultdict[str, list[str]](list)
        for name, extractor_patterns in patterns.items():
            required = [_required_words(_parser.parse(pattern)) for pattern in extractor_patterns]
            if any(words is None for words in required):
                self._unindexed.append(name)
            for word in {word[:_MAX_WORD_LENGTH] for words in required if words for word in words}:
                by_word[word].append(name)
        self._by_word = dict(by_word)
        self._lengths = sorted({len(word) for word in by_word})

    def candidates(self, url: str) -> list[str]:
        """Return the extractors that may match *url*, in order of precedence; no other one matches."""
        text, found = url.lower(), set(self._unindexed)
        for length in self._lengths:
            for start in range(len(text) - length + 1):
                # A lookup by hash, so that words that do not occur are not touched.
                found.update(self._by_word.get(text[start : start + length], ()))
        return sorted(found, key=self._ranks.__getitem__)


def url_patterns(extractors: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the URL patterns of yt-dlp's *extractors*; none for those that only others call."""
    patterns = {}
    for name, extractor in extractors.items():
        pattern = extractor._VALID_URL
        patterns[name] = [] if pattern is False else [pattern] if isinstance(pattern, str) else list(pattern)
    return patterns


def _required_words(items: Iterable[Any]) -> Words | None:
    """Return the most selective words that every match of *items* contains one of; None if there are none."""
    best: Words | None = None
    literal = ""
    for operation, argument in [*items, (None, None)]:
        if str(operation) == "LITERAL":
            literal += chr(argument).lower()
            continue
        if literal:
            best, literal = _more_selective(best, frozenset({literal})), ""
        best = _more_selective(best, _required_within(str(operation), argument))
    return best


def _required_within(operation: str, argument: Any) -> Words | None:
    if operation == "SUBPATTERN":
        return _required_words(argument[3])
    if operation == "ATOMIC_GROUP":
        return _required_words(argument)
    if operation.endswith("_REPEAT") and argument[0]:
        return _required_words(argument[2])
    if operation == "BRANCH":
        branches = [_required_words(branch) for branch in argument[1]]
        return None if None in branches else frozenset().union(*(words for words in branches if words))
    return None


def _more_selective(first: Words | None, second: Words | None) -> Words | None:
    if first is None or second is None:
        return first or second
    # The longer the shortest word, the fewer URLs contain it by chance.
    return max(first, second, key=lambda words: (min(map(len, words)), -len(words)))
