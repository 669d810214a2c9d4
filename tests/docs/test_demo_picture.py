"""The picture of the demo: what a terminal shows, as an SVG that loads nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tests.demo_picture import Screen, run_in_terminal, to_svg
from tests.docs.page import DOCS


def test_a_progress_bar_is_drawn_over_itself() -> None:
    """A line that is written again replaces what it had, also after the cursor went up."""
    screen = Screen()
    screen.feed("one\r\n10 %\r\x1b[2K\x1b[32m20 %\x1b[0m\r\ntwo\r\n\x1b[1A\x1b[2Ktwo again\r\n")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen.text())
    assert plain.split("\n") == ["one", "20 %", "two again"]
    assert "\x1b[32m2" in screen.text()


def test_output_of_a_terminal_is_recorded() -> None:
    """A program sees a terminal of 100 columns."""
    output = run_in_terminal(["sh", "-c", "test -t 1 && stty size"])
    assert output == "40 100\r\n"


def test_picture_loads_nothing() -> None:
    """The picture names no font or picture of another server."""
    svg = to_svg("\x1b[1mtitle\x1b[0m\r\n<&>\r\n", "Reelhaul")
    ElementTree.fromstring(svg)
    assert "url(http" not in svg
    assert "@font-face" not in svg


def test_the_picture_of_the_readme_is_one_of_a_demo_that_succeeded() -> None:
    """The picture in docs/pictures shows the last line of a successful demo."""
    picture = (DOCS / "pictures" / "demo.svg").read_text()
    text = "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    assert "demo ok job=jobs/" in text
    assert "url(http" not in picture
