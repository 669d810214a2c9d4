"""Languages: labels of sites become BCP-47 tags, and tags are compared as languages, not as text.

ISO 639-1, 639-2 (both forms), deprecated codes, macro languages, scripts and regions are those of the IANA
registry and CLDR, as the library langcodes has them.
"""

from __future__ import annotations

import locale
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from reelhaul_fetcher.model.tracks import track_roles

# Its tables take 3 MB, so the functions import it: a fetcher that downloads nothing does without them.
if TYPE_CHECKING:
    from langcodes import Language

#: The tag of a language that is not known.
UNDETERMINED = "und"

# Limit of storage, in characters; no language needs more.
_MAX_TAG = 35
_MAX_SUBTAGS = 5
_MAX_LABEL = 64
# Distinct labels and requests are few; the limit bounds the memory if a client sends ever new ones.
_CACHE_SIZE = 4096

_SEPARATOR = re.compile(r"[-_]+")
# The charset and the variant of a POSIX locale: en_US.UTF-8, sr_RS@latin.
_LOCALE_SUFFIX = re.compile(r"[.@].*", re.DOTALL)
# Language and region or script without a separator: enUS, zhHans.
_JOINED = re.compile(r"([a-z]{2,3})([A-Z]{2}|[A-Z][a-z]{3})")
_WORD = re.compile(r"\s*[^\W\d_]{4,}")
_COUNTRY = re.compile(r"[A-Za-z]{2}")
# Members of macro languages of ISO 639-3 that CLDR treats as separate languages.
_SEPARATE_MEMBERS = frozenset({"id"})


def to_tag(label: str) -> str:
    """Return the canonical BCP-47 tag of a site's *label* of a language; "und" if it names none.

    Parts that are no subtags are left out: ``en_US`` is "en-US", ``ger`` is "de", ``de_sdh`` is "de".
    """
    return _to_tag(label) if 0 < len(label) <= _MAX_LABEL else UNDETERMINED


def from_name(name: str) -> str:
    """Return the tag of the language with whose name *name* begins, in English or that language; else "und".

    The names are those that the X Window System knows as locales: "English (US)" is "en".
    """
    word = _WORD.match(name[:_MAX_LABEL].lower())
    code = locale.locale_alias.get(word[0].strip(), "") if word else ""
    return _to_valid_tag(code.partition("_")[0]) if "_" in code else UNDETERMINED


def distance(requested: str, offered: str, *, spoken: bool = False) -> int | None:
    """Return the distance of *offered* from *requested*, 0 if they are equal; None if it is another language.

    A language without a script and a region matches all of its variants, and a macro language its members.
    Another script is another language, unless the language is *spoken*; another region is not.
    """
    if UNDETERMINED in (requested, offered) or not requested or not offered:
        return 0 if requested == offered else None
    if requested.lower() == offered.lower():
        return 0
    wanted, candidate = _parse(requested), _parse(offered)
    if wanted is None or candidate is None:
        return None
    if wanted.language != candidate.language and not _is_member(wanted.language, candidate.language):
        return None
    if (wanted.script or wanted.territory) and not spoken:
        requested_script, offered_script = wanted.maximize().script, candidate.maximize().script
        if requested_script != offered_script and offered_script is not None:
            return None
    return 1 + wanted.distance(candidate, ignore_script=spoken)


def matches(requested: str, offered: str) -> bool:
    """Return whether *offered* is the language *requested*, or a variant of it."""
    return distance(requested, offered) is not None


def differs_in_region(requested: str, offered: str) -> bool:
    """Return whether both tags of one language name countries, and not the same one."""
    wanted, candidate = _parse(requested), _parse(offered)
    if wanted is None or candidate is None:
        return False
    regions = {language.territory for language in (wanted, candidate)}
    # Numbers stand for parts of the world, which contain countries: es-419.
    return len(regions) == 2 and all(region and region.isalpha() for region in regions)


def to_iso_639_2(tag: str) -> str:
    """Return the three-letter code of *tag* (ISO 639-2/T), which containers use; "und" if it has none."""
    language = _parse(tag)
    try:
        code = language.to_alpha3() if language is not None else UNDETERMINED
    except LookupError:
        return UNDETERMINED
    return code if len(code) == 3 else UNDETERMINED


@lru_cache(_CACHE_SIZE)
def _to_tag(label: str) -> str:
    label = label.strip()
    if label[:2].lower() == "x-":
        return _to_valid_tag(label) or UNDETERMINED
    parts = _SEPARATOR.split(_LOCALE_SUFFIX.sub("", label))
    if len(parts) == 1 and (joined := _JOINED.fullmatch(parts[0])):
        parts = list(joined.groups())
    parts = [parts[0], *(part for part in parts[1:] if not track_roles.is_role_subtag(parts[0], part))]
    for count in range(min(len(parts), _MAX_SUBTAGS), 0, -1):
        if tag := _to_valid_tag("-".join(parts[:count])):
            return tag
    return _language_of_country(parts[0]) or from_name(label)


def _to_valid_tag(text: str) -> str:
    """Return *text* as a canonical tag; empty if the registry does not have all of its subtags."""
    language = _get(text)
    # langcodes replaces valid extended languages (zh-yue is yue); a remaining one is invalid.
    if language is None or language.extlangs or not language.is_valid():
        return ""
    tag = language.to_tag()
    return tag if len(tag) <= _MAX_TAG else ""


def _language_of_country(code: str) -> str:
    """Return the language of the country with *code*, which some sites use for the language: "jp" is "ja"."""
    from langcodes.data_dicts import LIKELY_SUBTAGS

    likely = LIKELY_SUBTAGS.get(f"und-{code.upper()}") if _COUNTRY.fullmatch(code) else None
    return likely.partition("-")[0] if likely else ""


@lru_cache(_CACHE_SIZE)
def _parse(tag: str) -> Language | None:
    """Return *tag* as a language to compare, cmn as zh; None if it is no tag."""
    language = _get(tag)
    return language.prefer_macrolanguage() if language is not None else None


def _is_member(requested: str | None, offered: str | None) -> bool:
    """Return whether the language *offered* is one of the macro language *requested*."""
    # Norwegian without further subtags is Bokmål.
    if (requested, offered) == ("nb", "no"):
        return True
    from langcodes.data_dicts import MACROLANGUAGES

    return MACROLANGUAGES.get(offered or "") == requested and offered not in _SEPARATE_MEMBERS


def _get(text: str) -> Language | None:
    from langcodes import Language
    from langcodes.language_distance import _DISTANCE_CACHE

    # The caches of langcodes are unbounded.
    if len(Language._PARSE_CACHE) > _CACHE_SIZE:
        for cache in (Language._PARSE_CACHE, Language._INSTANCES, _DISTANCE_CACHE):
            cache.clear()
    try:
        return Language.get(text)
    except ValueError:
        return None
