"""Charsets: decodes subtitle files, with or without a declared charset."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from itertools import islice

import charset_normalizer

# Longer marks first: the mark of UTF-16 is a prefix of that of UTF-32.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Declared charsets and their supersets, with which browsers decode them (https://encoding.spec.whatwg.org).
_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_DETECTED = (
    *("cp1252", "cp1251", "cp1250", "cp1254", "cp1253", "cp1255", "cp1256", "cp1257", "cp874"),
    *("koi8-r", "cp866", "cp932", "euc_jp", "gb18030", "big5hkscs", "cp949"),
)
# Charsets that a site may declare: some other codecs of Python take quadratic time, or execute escapes.
_DECLARABLE = frozenset(
    (
        *_DETECTED,
        *("cp1258", "koi8-u", "mac-roman", "mac-cyrillic", "iso2022_jp", "iso2022_kr", "hz"),
        *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    )
)
# Charsets of ASCII bytes with escape sequences, which are also valid UTF-8.
_ESCAPED = frozenset(("iso2022_jp", "iso2022_kr", "hz"))
_BY_LANGUAGE = {
    **dict.fromkeys(("pl", "cs", "sk", "hu", "sl", "hr", "bs", "ro", "sq"), ("cp1250", "iso8859-2")),
    **dict.fromkeys(
        ("ru", "uk", "be", "bg", "mk", "sr", "kk", "mn"), ("cp1251", "koi8-r", "cp866", "iso8859-5")
    ),
    **dict.fromkeys(("tr", "az"), ("cp1254",)),
    **dict.fromkeys(("et", "lv", "lt"), ("cp1257", "iso8859-13")),
    **dict.fromkeys(("ar", "fa", "ur"), ("cp1256",)),
    "el": ("cp1253", "iso8859-7"),
    "he": ("cp1255", "iso8859-8"),
    "th": ("cp874",),
    "vi": ("cp1258",),
    "ja": ("cp932", "euc_jp"),
    "ko": ("cp949",),
    "zh": ("gb18030", "big5hkscs"),
    **dict.fromkeys(
        (
            "de",
            "en",
            "fr",
            "es",
            "it",
            "pt",
            "nl",
            "sv",
            "da",
            "nb",
            "nn",
            "no",
            "fi",
            "is",
            "ca",
            "eu",
            "gl",
        ),
        ("cp1252",),
    ),
}
# Share of letters beyond ASCII, above which a text is not in the Latin alphabet.
_MAX_LATIN_SHARE = 0.4
# Share of invalid characters up to which a file is damaged UTF-8, relative to all characters beyond ASCII.
_MAX_DAMAGED_SHARE = 0.3
_HEAD_BYTES = 256
_SAMPLE_BYTES = 32 * 1024
_MAX_SAMPLE_LINES = 2000
_XML_ENCODING = re.compile(rb"<\?xml\s[^<>]{0,100}?encoding\s{0,9}=\s{0,9}[\"']([\w.:-]{1,40})")
_ASCII_LETTER, _NON_ASCII = re.compile(rb"[A-Za-z]"), re.compile(rb"[\x80-\xff]")


def decode(content: bytes, declared: str = "", language: str = "") -> str:
    """Return the text of *content*, without a byte order mark.

    The charset is, in this order: that of the mark; UTF-16 by its zeros; UTF-8 if it is that; the *declared*
    one; one that is usual for *language* (BCP-47) or detected. Bytes without a meaning become U+FFFD.
    """
    for mark, codec in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(codec, "replace")
    if codec := _detect_utf16(content):
        return content.decode(codec, "replace")
    xml_match = _XML_ENCODING.search(content[:_HEAD_BYTES])
    declared_codec = _normalize(declared) or (_normalize(xml_match[1].decode()) if xml_match else "")
    for codec in (declared_codec if declared_codec in _ESCAPED else "", "utf-8", declared_codec):
        try:
            if codec:
                return content.decode(codec)
        except UnicodeError:
            continue
    text = content.decode("utf-8", "replace")
    damaged, non_ascii = text.count("\ufffd"), len(text) - len(text.encode("ascii", "ignore"))
    if damaged <= non_ascii * _MAX_DAMAGED_SHARE:
        return text
    return content.decode(_detect(content, language), "replace")


def _detect_utf16(content: bytes) -> str:
    """Return the UTF-16 codec of *content* without a byte order mark; empty for other charsets.

    In UTF-16, times and line breaks have a zero in every other byte, in every script.
    """
    even, odd = (content[start : 2 * _SAMPLE_BYTES : 2].count(0) for start in (0, 1))
    if odd > 10 * even + 2:
        return "utf-16-le"
    return "utf-16-be" if even > 10 * odd + 2 else ""


def _normalize(declared: str) -> str:
    """Return Python's name of the charset *declared*; empty if it is unknown or not allowed."""
    try:
        name = codecs.lookup(declared).name
    except (LookupError, ValueError):
        return ""
    name = _SUPERSETS.get(name, name)
    return name if name in _DECLARABLE else ""


def _detect(content: bytes, language: str) -> str:
    """Return the most likely charset of *content*, which is no UTF-8."""
    # Lines of ASCII, such as times, do not identify a charset.
    lines = islice((line for line in content.splitlines() if _NON_ASCII.search(line)), _MAX_SAMPLE_LINES)
    sample = b"\n".join(lines)[:_SAMPLE_BYTES]
    candidates = _BY_LANGUAGE.get(language.partition("-")[0].lower(), ())
    if candidates == ("cp1252",) and _non_ascii_share(sample) > _MAX_LATIN_SHARE:
        candidates = ()
    return candidates[0] if len(candidates) == 1 else _most_likely(sample, candidates or _DETECTED)


def _non_ascii_share(sample: bytes) -> float:
    non_ascii = len(_NON_ASCII.findall(sample))
    # A sample of a long line may have neither.
    return non_ascii / max(1, non_ascii + len(_ASCII_LETTER.findall(sample)))


def _most_likely(sample: bytes, candidates: Iterable[str]) -> str:
    """Return the most plausible of *candidates* for *sample*; the first among equals."""
    names = list(candidates)
    matches = charset_normalizer.from_bytes(sample, cp_isolation=names)
    ranks = {codecs.lookup(match.encoding).name: (match.chaos, -match.coherence) for match in matches}
    for match in matches:
        # Encodings in which the sample reads the same.
        ranks |= {
            codecs.lookup(name).name: (match.chaos, -match.coherence) for name in match.could_be_from_charset
        }
    return min((name for name in names if name in ranks), key=ranks.__getitem__, default=names[0])
