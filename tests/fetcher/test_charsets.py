"""Charsets: subtitles in every character set that sites use are decoded."""

from __future__ import annotations

import codecs

import pytest

from reelhaul_fetcher.model.subtitle_formats.charsets import decode

GERMAN = "Über die Straße: Größe, naïve, façade"
RUSSIAN = "Привет, как дела?\nЯ не знаю, что делать."
POLISH = "Zażółć gęślą jaźń. Nie wiem, co robić, proszę."
JAPANESE = "こんにちは、お元気ですか？\nわかりません。"
CHINESE = "你好，你怎么样？\n我不知道该怎么办。"
XML = '<?xml version="1.0" encoding="{}"?><tt>{}</tt>'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (codecs.BOM_UTF8 + GERMAN.encode(), GERMAN),
        (GERMAN.encode("utf-16"), GERMAN),
        (codecs.BOM_UTF16_BE + GERMAN.encode("utf-16-be"), GERMAN),
        (GERMAN.encode("utf-32"), GERMAN),
        (f"00:01\n{GERMAN}".encode("utf-16-le"), f"00:01\n{GERMAN}"),
        (f"00:01\n{CHINESE}\n00:02\n".encode("utf-16-be"), f"00:01\n{CHINESE}\n00:02\n"),
        (GERMAN.encode(), GERMAN),
        (b"plain", "plain"),
        (b"", ""),
    ],
    ids=range(9),
)
def test_unicode(content: bytes, text: str) -> None:
    """Unicode is found by its mark, or by its bytes, whatever the site declares."""
    for declared in ("", "iso-8859-1", "windows-1252", "utf-16", "no such charset"):
        assert decode(content, declared) == text


@pytest.mark.parametrize(
    ("declared", "codec", "text"),
    [
        ("windows-1252", "cp1252", GERMAN),
        ("ISO-8859-1", "cp1252", "“naïve” – €"),
        ("us-ascii", "cp1252", GERMAN),
        ("windows-1251", "cp1251", RUSSIAN),
        ("koi8-r", "koi8-r", RUSSIAN),
        ("iso-8859-2", "iso8859-2", POLISH),
        ("Shift_JIS", "cp932", JAPANESE),
        ("iso-2022-jp", "iso2022_jp", JAPANESE),
        ("gb2312", "gb18030", CHINESE),
        ("big5", "big5hkscs", "你好，你怎麼樣？"),
        ("euc-kr", "cp949", "안녕하세요, 어떻게 지내세요?"),
    ],
)
def test_declared(declared: str, codec: str, text: str) -> None:
    """The declared charset is used, as browsers read it, also where an XML file declares it."""
    assert decode(text.encode(codec), declared) == text
    document = XML.format(declared, text)
    assert decode(document.encode(codec)) == document


@pytest.mark.parametrize(
    ("language", "codec", "text"),
    [
        ("de", "cp1252", GERMAN),
        ("en-GB", "cp1252", "It’s a “quote” — he said… café"),
        ("", "cp1252", GERMAN),
        ("pl", "cp1250", POLISH),
        ("ru", "cp1251", RUSSIAN),
        ("ru", "koi8-r", RUSSIAN),
        ("uk", "cp866", "Привет, как дела?"),
        ("en", "cp1251", RUSSIAN),
        ("", "cp1251", RUSSIAN),
        ("el", "cp1253", "Καλημέρα, τι κάνεις;"),
        ("tr", "cp1254", "Günaydın, nasılsın? İyi değilim."),
        ("he", "cp1255", "שלום, מה שלומך?"),
        ("ar", "cp1256", "مرحبا كيف حالك؟"),
        ("lt", "cp1257", "Labas rytas! Aš nežinau, ką daryti."),
        ("th", "cp874", "สวัสดีครับ คุณเป็นอย่างไรบ้าง"),
        ("ja", "cp932", JAPANESE),
        ("ja", "euc_jp", JAPANESE),
        ("zh-Hans", "gb18030", CHINESE),
        ("zh-TW", "big5hkscs", "你好，你怎麼樣？\n我不知道該怎麼辦。"),
        ("ko", "cp949", "안녕하세요, 어떻게 지내세요?"),
    ],
)
def test_detected(language: str, codec: str, text: str) -> None:
    """A charset that is not declared is detected, with the help of the language."""
    cues = f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n"
    assert decode(cues.encode(codec), language=language) == cues


@pytest.mark.parametrize(
    "declared", ["zlib", "idna", "punycode", "unicode_escape", "rot13", "../x", "x" * 999]
)
def test_declared_codecs_of_python(declared: str) -> None:
    """A site cannot choose a codec of Python that is no charset."""
    assert decode(GERMAN.encode("cp1252"), declared, "de") == GERMAN


def test_damaged_bytes() -> None:
    """A damaged byte costs one character, not the charset."""
    assert decode(GERMAN.encode() + b"\xff", language="de") == GERMAN + "\ufffd"
    assert decode(codecs.BOM_UTF16_LE + GERMAN.encode("utf-16-le") + b"x") == GERMAN + "\ufffd"


def test_long_line() -> None:
    """A line whose beginning has no letters is read as well."""
    assert decode(b"1" * 40_000 + b"\xfc", "", "de") == "1" * 40_000 + "ü"
