"""Accept: the media type that a client prefers."""

from __future__ import annotations

from collections.abc import Sequence


def preferred_type(header: bytes, offers: Sequence[bytes]) -> bytes:
    """Return which of *offers* the Accept *header* prefers; the first if it accepts none of them.

    Of equal qualities, a type that the client names wins over one that a wildcard matches, and
    then the earlier of *offers*. RFC 9110 section 12.5.1.
    """
    qualities: dict[bytes, float] = {}
    for element in header.lower().split(b","):
        media_range, *parameters = element.split(b";")
        qualities[media_range.strip()] = _quality(parameters)
    best, best_rank = offers[0], (0.0, 0)
    for offer in offers:
        rank = _rank(qualities, offer)
        if rank[0] > 0 and rank > best_rank:
            best, best_rank = offer, rank
    return best


def _rank(qualities: dict[bytes, float], offer: bytes) -> tuple[float, int]:
    """Return the quality of *offer*, and how specific the range is that matches it."""
    ranges = (offer, offer.partition(b"/")[0] + b"/*", b"*/*")
    for specificity, media_range in zip((3, 2, 1), ranges, strict=True):
        if media_range in qualities:
            return qualities[media_range], specificity
    return 0.0, 0


def _quality(parameters: list[bytes]) -> float:
    """Return the ``q`` among *parameters*; 1 if there is none, 0 if it is not a number from 0 to 1."""
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0
