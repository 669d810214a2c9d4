"""Hosts of a URL pattern: what an extractor's regular expression says of the sites that it takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

#: Any host at all.
ANY_HOST = "*"

# Stands for whatever a pattern leaves open.
_OPEN = "\0"
# More ways to begin a URL than this are not looked at.
_MOST = 3000
_HOST_ENDS = re.compile(r"[/?#:]")
_HOST = re.compile(r"(\*|[a-z0-9_-]+)(\.[a-z0-9_-]+)*(\.\*)?")
_REPEATS = (code.MAX_REPEAT, code.MIN_REPEAT)
# The parser is given what was compiled before: its warnings were heard then.
_FUTURE = FutureWarning

# A text that the pattern may begin with, from the slashes on, and whether its host is complete.
_Text = tuple[str, bool]


def hosts_of(pattern: str) -> frozenset[str]:
    """Hosts of the http URLs that *pattern* takes, without ``www.`` and open subdomains.

    ``*`` as the last label is any ending, ``*`` alone any host. Empty where it takes no such URL.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _FUTURE)
        parsed = parser.parse(pattern)
    begun = _after(parsed, frozenset({("", False)}))
    return frozenset(host for text, complete in begun if (host := _host_of(text, complete)))


def _host_of(text: str, complete: bool) -> str:
    """The host of a URL that begins with *text*; empty where that is none."""
    scheme, slashes, rest = text.partition("//")
    if not slashes or scheme.strip(_OPEN):
        return ""
    labels = _HOST_ENDS.split(rest)[0].lower().split(".")
    if all(set(label) <= {_OPEN} for label in labels):
        return ANY_HOST if complete else ""
    known = [ANY_HOST if _OPEN in label else label for label in labels]
    while known[0] in (ANY_HOST, "www") and len(known) > 1:
        del known[0]
    while known[-2:] == [ANY_HOST, ANY_HOST]:
        del known[-1]
    host = ".".join(known)
    return host if len(known) > 1 and _HOST.fullmatch(host) else ""


def _after(items: Any, texts: frozenset[_Text]) -> frozenset[_Text]:
    """*texts*, each with all that *items* may add to it."""
    for operation, argument in items:
        if all(complete for _, complete in texts):
            break
        texts = _step(operation, argument, texts)
        if len(texts) > _MOST:
            # Those that are complete stay.
            texts = frozenset(sorted(texts, key=lambda text: (not text[1], text[0]))[:_MOST])
    return texts


def _step(operation: Any, argument: Any, texts: frozenset[_Text]) -> frozenset[_Text]:
    if operation is code.LITERAL:
        return _with(texts, [chr(argument)])
    if operation is code.ANY:
        # Nearly always a dot that its author did not escape.
        return _with(texts, ["."])
    if operation is code.IN:
        return _with(texts, _choices(argument))
    if operation is code.NOT_LITERAL:
        return _with(texts, [_OPEN])
    if operation is code.SUBPATTERN:
        return _after(argument[3], texts)
    if operation is code.BRANCH:
        return frozenset().union(*(_after(branch, texts) for branch in argument[1]))
    if operation in _REPEATS:
        least, most, repeated = argument
        return _repeated(least, most, repeated, texts)
    # Looks ahead and behind add nothing.
    return texts


def _repeated(least: int, most: int, repeated: Any, texts: frozenset[_Text]) -> frozenset[_Text]:
    none = texts if least == 0 else frozenset()
    if most == 1:
        return none | _after(repeated, texts)
    if len(repeated) == 1 and repeated[0][0] is code.ANY:
        return none | _with(texts, [_OPEN])
    once = _after(repeated, texts)
    # One name of many labels, or many of one: what lies between two is open.
    return none | once | (_after(repeated, _with(once, [_OPEN])) if most > 1 else frozenset())


def _choices(options: Any) -> Iterable[str]:
    """What one character of a class may be: itself in few cases, else open."""
    letters = {chr(argument).lower() for operation, argument in options if operation is code.LITERAL}
    plain = all(operation is code.LITERAL for operation, _ in options)
    return letters if plain and len(letters) <= 2 else [_OPEN]


def _with(texts: frozenset[_Text], choices: Iterable[str]) -> frozenset[_Text]:
    found = set()
    for text, complete in texts:
        if complete:
            found.add((text, True))
            continue
        for choice in choices:
            found.add(_grown(text, choice))
    return frozenset(found)


def _grown(text: str, letter: str) -> _Text:
    if letter == _OPEN and text.endswith(_OPEN):
        return text, False
    text += letter
    for scheme in ("http:", "https:"):
        # One way to begin, not three.
        text = text.removeprefix(scheme) if text == f"{scheme}//" else text
    _, slashes, rest = text.partition("//")
    if not slashes and len(text) > len("https:/"):
        return "", True
    return text, bool(slashes) and _HOST_ENDS.search(rest) is not None
