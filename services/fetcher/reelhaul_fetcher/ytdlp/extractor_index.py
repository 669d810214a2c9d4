"""Which extractors may know a URL: a few of 1,700, found without touching the others.

yt-dlp asks each in turn. In a forked child that costs more than a small download: who is asked is
written to, if only his count of references, and each page written to is copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from re import _parser  # type: ignore[attr-defined]
from typing import Any

# As long as a word gets that is looked for: longer ones are cut.
_LONGEST = 12

#: Of words each, one of which is in every match.
Words = frozenset[str]


class ExtractorIndex:
    """Extractors by what must be in a URL for them to know it. *patterns* are theirs, in order of rank."""

    def __init__(self, patterns: Mapping[str, Iterable[str]]) -> None:
        self._ranks = {name: rank for rank, name in enumerate(patterns)}
        #: Those that may know any.
        self._any: list[str] = []
        self._by_word = defaultdict[str, list[str]](list)
        for name, each in patterns.items():
            words = [_needed(_parsed(pattern)) for pattern in each]
            if any(word is None for word in words):
                self._any.append(name)
            for word in {w[:_LONGEST] for found in words if found for w in found}:
                self._by_word[word].append(name)
        self._by_word = defaultdict(list, self._by_word)
        self._lengths = sorted({len(word) for word in self._by_word})

    def of(self, url: str) -> list[str]:
        """Who may know *url*; all others do not."""
        text, found = url.lower(), set(self._any)
        for length in self._lengths:
            for start in range(len(text) - length + 1):
                # Looked up, not compared: a word that is not there is not touched.
                found.update(self._by_word.get(text[start : start + length], ()))
        return sorted(found, key=self._ranks.__getitem__)


def patterns(extractors: Mapping[str, Any]) -> dict[str, list[str]]:
    """The expressions of yt-dlp's *extractors*; none for those that are only referred to."""
    found = {}
    for name, extractor in extractors.items():
        said = extractor._VALID_URL
        found[name] = [] if said is False else [said] if isinstance(said, str) else list(said)
    return found


def _parsed(pattern: str) -> Any:
    return _parser.parse(pattern)


def _needed(sequence: Iterable[Any]) -> Words | None:
    """The most telling words of which one is in every match of *sequence*; None where nothing need be."""
    best: Words | None = None
    run = ""
    for operation, argument in [*sequence, (None, None)]:
        if str(operation) == "LITERAL":
            run += chr(argument).lower()
            continue
        if run:
            best, run = _better(best, frozenset({run})), ""
        best = _better(best, _within(str(operation), argument))
    return best


def _within(operation: str, argument: Any) -> Words | None:
    if operation == "SUBPATTERN":
        return _needed(argument[3])
    if operation == "ATOMIC_GROUP":
        return _needed(argument)
    if operation.endswith("_REPEAT") and argument[0]:
        return _needed(argument[2])
    if operation == "BRANCH":
        roads = [_needed(road) for road in argument[1]]
        return None if None in roads else frozenset().union(*(road for road in roads if road))
    return None


def _better(one: Words | None, other: Words | None) -> Words | None:
    if one is None or other is None:
        return one or other
    # The longer the shortest word is, the fewer have it by chance.
    return max(one, other, key=lambda words: (min(map(len, words)), -len(words)))
