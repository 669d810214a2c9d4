"""docs/configuration.md is what the settings classes and .env.example say."""

from __future__ import annotations

from tests.configuration import DOCUMENT, EXAMPLE, document, read_comments


def test_reference_is_up_to_date():
    """The configuration reference is that of this build; `make configuration` writes it."""
    assert DOCUMENT.read_text() == document(), "run make configuration and commit docs/configuration.md"


def test_every_setting_has_a_comment():
    """Each setting of .env.example has a comment, which the reference shows."""
    assert [name for name, comment in read_comments(EXAMPLE.read_text()).items() if not comment] == []
