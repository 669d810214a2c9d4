"""Languages are compared as languages: labels of sites become tags, and each request finds its language."""

from __future__ import annotations

import itertools

import pytest
from langcodes import Language
from langcodes.language_distance import _DISTANCE_CACHE

from reelhaul_fetcher.model.tracks import languages


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        # ISO 639-2, both forms, and ISO 639-3.
        *(
            ("eng", "en"),
            ("ger", "de"),
            ("deu", "de"),
            ("fre", "fr"),
            ("fra", "fr"),
            ("chi", "zh"),
            ("zho", "zh"),
        ),
        *(
            ("dut", "nl"),
            ("cze", "cs"),
            ("gre", "el"),
            ("per", "fa"),
            ("rum", "ro"),
            ("nob", "nb"),
            ("GER", "de"),
        ),
        # Deprecated codes and forms.
        *(
            ("iw", "he"),
            ("in", "id"),
            ("ji", "yi"),
            ("mo", "ro"),
            ("zh-cmn-Hans", "zh-Hans"),
            ("zh-yue", "yue"),
        ),
        *(("en-UK", "en-GB"), ("i-klingon", "tlh"), ("scc", "sr")),
        # Case, separators and locales.
        *(("en_US", "en-US"), ("EN-us", "en-US"), ("zh_hant_hk", "zh-Hant-HK"), ("pt_BR.UTF-8", "pt-BR")),
        *(
            ("enUS", "en-US"),
            ("ptBR", "pt-BR"),
            ("zhHans", "zh-Hans"),
            ("sr_RS@latin", "sr-RS"),
            ("en ", "en"),
        ),
        # Roles and rests.
        *(("de_sdh", "de"), ("en-desc", "en"), ("en-forced", "en"), ("fr-CC", "fr"), ("pt-BR-sdh", "pt-BR")),
        *(
            ("en-", "en"),
            ("en-nP7-2PuUl7o", "en"),
            ("de-eEY6OEpapPo", "de"),
            ("en-cc1", "en"),
            ("ca-AD", "ca-AD"),
        ),
        # Countries that were taken for languages.
        *(("jp", "ja"), ("cz", "cs"), ("dk", "da"), ("ua", "uk")),
        # Kept as they are.
        *(("x-klingon", "x-klingon"), ("qaa", "qaa"), ("es-419", "es-419"), ("ca-valencia", "ca-valencia")),
        # None at all.
        *(
            (text, "und")
            for text in ("", "  ", "1", "-", "_", "a", "Klingonisch", "Original (OmU)", "日本語")
        ),
        *(
            (text, "und")
            for text in ("a-very-long-label-" * 5, "en\0", "\ud800", "xx", "no subtitles", "en--" * 20)
        ),
    ],
)
def test_labels(label: str, tag: str) -> None:
    """A label becomes a legal tag of at most 35 characters, or "und"."""
    assert languages.to_tag(label) == tag
    assert len(tag) <= 35
    assert languages.to_tag(tag) == tag


@pytest.mark.parametrize(
    ("requested", "offered"),
    [
        ("en", ["en", "en-US", "en-GB", "en-AU"]),
        ("en-US", ["en-US", "en", "en-GB"]),
        ("de", ["de", "de-AT", "de-CH"]),
        ("pt", ["pt-BR", "pt-PT"]),
        ("pt-PT", ["pt-PT", "pt"]),
        ("he", ["he", "he-IL"]),
        ("iw", ["he"]),
        ("ger", ["de"]),
        ("no", ["nb", "nn"]),
        ("nb", ["no"]),
        ("nor", ["nb"]),
        ("zh", ["zh-Hans", "zh-Hant", "yue"]),
        ("zh-CN", ["zh-Hans", "cmn-Hans"]),
        ("zh-TW", ["zh-Hant", "zh-HK"]),
        ("zh-Hant", ["zh-HK"]),
        ("zh-Hans", ["zh"]),
        ("cmn", ["zh"]),
        ("ar", ["arb", "arz"]),
        ("es-MX", ["es-MX", "es-419", "es-ES"]),
        ("sr", ["sr", "sr-Latn"]),
        ("sh", ["sr-Latn"]),
        ("fil", ["tl"]),
        ("und", ["und"]),
    ],
)
def test_found(requested: str, offered: list[str]) -> None:
    """A language is found under each of its tags, nearer ones first."""
    distances = [languages.distance(requested, tag) for tag in offered]
    assert None not in distances
    assert distances == sorted(distances, key=lambda distance: distance or 0)


@pytest.mark.parametrize(
    ("requested", "offered"),
    [
        *(
            ("en", "de"),
            ("en", ""),
            ("en", "und"),
            ("und", "en"),
            ("en", "enm"),
            ("de", "nds"),
            ("de", "gsw"),
        ),
        *(
            ("zh-Hant", "zh-Hans"),
            ("zh-TW", "zh-CN"),
            ("zh-Hant", "zh"),
            ("sr-Cyrl", "sr-Latn"),
            ("yue", "zh"),
        ),
        *(("nn", "no"), ("nb", "nn"), ("ms", "id"), ("hr", "sr"), ("da", "nb"), ("uk", "ru"), ("arz", "ar")),
        *(("original", "en"), ("all", "en"), ("x-a", "x-b")),
    ],
)
def test_not_found(requested: str, offered: str) -> None:
    """Languages that are similar, or the same in another script, are others."""
    assert not languages.matches(requested, offered)


def test_scripts_of_speech() -> None:
    """Speech has no script: "zh-TW" finds Chinese audio in "zh-Hans", if there is nothing nearer."""
    assert languages.distance("zh-TW", "zh-Hans", spoken=True) is not None
    assert languages.distance("zh-TW", "zh-Hans") is None


@pytest.mark.parametrize(
    ("requested", "offered", "differs"),
    [
        *(("en-GB", "en-US", True), ("pt-BR", "pt-PT", True), ("en", "en-US", False), ("en-US", "en", False)),
        *(("es-419", "es-MX", False), ("en-GB", "en-GB", False), ("zh-CN", "zh-Hans", False)),
    ],
)
def test_regions(requested: str, offered: str, differs: bool) -> None:
    """Two countries differ; a language as such, and a part of the world, include the country."""
    assert languages.differs_in_region(requested, offered) is differs


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *(("en", "eng"), ("de-AT", "deu"), ("nb", "nob"), ("zh-Hant", "zho"), ("yue", "yue"), ("und", "und")),
        *(("qaa", "qaa"), ("x-klingon", "und"), ("", "und"), ("not a tag", "und")),
    ],
)
def test_container_codes(tag: str, code: str) -> None:
    """Containers name languages by three letters."""
    assert languages.to_iso_639_2(tag) == code


def test_bounded_memory() -> None:
    """Labels and requests that never repeat do not fill the memory."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for region, number in itertools.product(itertools.product(letters, repeat=2), range(30)):
        languages.to_tag(f"en-x{number:02}{''.join(region)}")
        languages.matches("en", f"en-{''.join(region)}-x{number:05}")
    assert len(Language._PARSE_CACHE) + len(Language._INSTANCES) + len(_DISTANCE_CACHE) < 30_000
