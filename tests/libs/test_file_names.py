"""File names: titles, callers' names and servers' names made safe."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelhaul import file_names


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A video", "A video.mp4"),
        ("../../etc/passwd", "_.._etc_passwd.mp4"),
        ("a/b\\c:d*e", "a_b_c_d_e.mp4"),
        ("$(rm -rf ~)", "$(rm -rf ~).mp4"),
        ("evil\u202e4pm.exe", "evil4pm.exe.mp4"),
        ("tabs\tand\nlines", "tabs and lines.mp4"),
        ("cafe\u0301", "caf\u00e9.mp4"),
        ("CON", "video_CON.mp4"),
        ("...", "video.mp4"),
        ("", "video.mp4"),
        ("ü" * 300, "ü" * 98 + ".mp4"),
    ],
)
def test_from_title(title: str, name: str):
    """A hostile title becomes a name that is safe everywhere."""
    assert name == file_names.from_title(title, "mp4")


@given(st.text())
def test_no_title_makes_an_unsafe_name(title: str):
    """No title gives separators, controls, a leading dot, or more than 200 bytes."""
    name = file_names.from_title(title, "srt", infix="en")
    assert name.endswith(".en.srt")
    assert len(name.encode()) <= 200
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>|\x00\n')


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        (" a/b\\c.mp4. ", "a_b_c.mp4"),
        ("..", ""),
        ("evil\u202e4pm.exe", "evil_4pm.exe"),
        ("\U0001f468\u200d\U0001f469.mp4", "\U0001f468\u200d\U0001f469.mp4"),
        ("con.mp4", "con.mp4"),
        ("ü" * 300 + ".mp4", "ü" * 98 + ".mp4"),
        ("a." + "x" * 300, "a." + "x" * 198),
    ],
)
def test_sanitize(given_name: str, name: str):
    """A caller's name keeps what every system can save, its extension too."""
    assert name == file_names.sanitize(given_name)


@given(st.text())
def test_no_server_escapes_the_folder(sent: str):
    """Whatever a server sends is one visible component of a path, and no device of Windows'."""
    name = file_names.sanitize_untrusted(sent)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert not {unicodedata.category(letter) for letter in name} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(name.encode()) <= 200


@pytest.mark.parametrize("device", ["con", "NUL.txt", "com1.mp4", "lpt9"])
def test_device_names_of_windows(device: str):
    """A device's name, with any extension, is changed."""
    assert file_names.sanitize_untrusted(device) == f"_{device}"


def test_numbered():
    """Numbers go before the extension."""
    names = file_names.numbered(Path("a/b.tar.gz"))
    assert [str(next(names)) for _ in range(3)] == ["a/b.tar.gz", "a/b.tar (2).gz", "a/b.tar (3).gz"]
