"""Page tokens: good for one list, for three days, and as they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def tokens_at(time: datetime, secret: str = "secret") -> PageTokens:
    """Page tokens whose clock stands at *time*."""
    return PageTokens(secret, lambda: time)


def test_position_comes_back():
    """Times, numbers and text come back as what they were; the empty token is the first page."""
    tokens = tokens_at(NOW)
    token = tokens.create("list", NOW, "jobs/1", 7)
    assert tokens.read("list", token) == (NOW, "jobs/1", 7)
    assert tokens.read("list", "") is None


def test_replicas_share_tokens():
    """A replica with the same secret reads the token, until it is three days old."""
    token = tokens_at(NOW).create("list", 1)
    assert tokens_at(NOW + timedelta(days=2, hours=23)).read("list", token) == (1,)


def test_invalid_tokens():
    """A token that is of another list, damaged, expired or signed by others is PAGE_TOKEN_INVALID."""
    tokens = tokens_at(NOW)
    token = tokens.create("list", NOW, "jobs/1", 7)
    for reader, arguments, sent in (
        (tokens, "other list", token),
        (tokens, "list", token[:-1]),
        (tokens, "list", "é"),
        (tokens, "list", "A" * 1000),
        (tokens, "list", "A"),
        (tokens_at(NOW + timedelta(days=4)), "list", token),
        (tokens_at(NOW, "another secret"), "list", token),
    ):
        with pytest.raises(ReelhaulError) as failure:
            reader.read(arguments, sent)
        assert failure.value.reason == ErrorReason.PAGE_TOKEN_INVALID


def test_page_sizes():
    """The default is 50, the maximum 1000; a negative size is FIELD_INVALID."""
    assert [limit_page_size(size) for size in (0, 1, 1000, 5000)] == [50, 1, 1000, 1000]
    with pytest.raises(ReelhaulError) as failure:
        limit_page_size(-1)
    assert failure.value.metadata == {"field": "page_size"}
