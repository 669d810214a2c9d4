"""Redaction: removes from messages and logs what may be secret: parts of URLs, paths of the server."""

from __future__ import annotations

import re

# A URL from its slashes on, up to the next one of a list with commas, or the query of a URL of which the text
# has only the end. Each alternative ends where the next one could begin, so that the search is linear.
_URL = re.compile(r'//(?:[^\s"<>,]|,(?![a-z]{1,10}://))*|\?[^\s"<>=?]{0,100}=[^\s"<>]*')
_QUERY_OR_FRAGMENT = re.compile(r"[?#]")
# An absolute path of two or more parts, in quotes or up to a space; not a URL, nor its path. Linear: each
# part ends at the next slash, and no match begins within a path.
_PATH = re.compile(
    r"""(?P<quote>['"])/(?:[^/'"\n]+/)+(?P<quoted>[^/'"\n]*)(?P=quote)"""
    r"""|(?<![\w.\]/~%-])/(?:[^\s/'"<>(),;:]+/)+(?P<last>[^\s/'"<>(),;:]*)"""
)
# It follows a URL in a sentence more often than it ends one.
_PUNCTUATION = "'`).,:;]}"


def redact_urls(text: str) -> str:
    """Return *text* without the user info, query and fragment of the URLs in it; host and path stay.

    Queries and fragments contain tokens of sessions and password resets, user info contains passwords.
    """
    return _URL.sub(_redact, text) if "//" in text or "?" in text else text


def redact_paths(text: str) -> str:
    """Return *text* with each absolute path reduced to its last part."""
    return _PATH.sub(_last_part, text) if "/" in text else text


def _last_part(match: re.Match[str]) -> str:
    quote = match["quote"] or ""
    return f"{quote}{match['quoted'] or match['last'] or '…'}{quote}"


def _redact(match: re.Match[str]) -> str:
    url = match[0].rstrip(_PUNCTUATION)
    punctuation = match[0][len(url) :]
    if not url.startswith("//"):
        return punctuation
    authority, slash, path = _QUERY_OR_FRAGMENT.split(url[2:], maxsplit=1)[0].partition("/")
    return f"//{authority.rpartition('@')[2]}{slash}{path}{punctuation}"
