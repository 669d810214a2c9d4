"""Adds properties of tracks in manifests and pages to yt-dlp's formats and subtitles.

yt-dlp keeps only the language, which full, forced and described tracks share. The name, the role and the
default flag are added to its results.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urljoin
from xml.etree.ElementTree import Element

from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import extract_attributes, float_or_none, int_or_none, parse_codecs, parse_m3u8_attributes

from reelhaul.type.v1.media_pb2 import TrackRole
from reelhaul_fetcher.model.tracks import track_roles
from reelhaul_fetcher.model.tracks.subtitle_tracks import IS_DEFAULT, MANIFEST_SUBTITLES, NUMBER, ROLE

Info = dict[str, Any]
_Attributes = dict[str, str]

# Types by contentType, for a Representation without a MIME type.
_MIME_TYPES = {"video": "video/mp4", "audio": "audio/mp4", "text": "text/vtt"}
_MAX_TRACKS = 10_000
_MAX_TAG_LENGTH = 4000
_TRACK_TAG = re.compile(rf"<track\s[^<>]{{1,{_MAX_TAG_LENGTH}}}>", re.IGNORECASE)


def patch_track_parsers() -> None:
    """Make every extractor of yt-dlp add the properties of tracks in manifests and pages."""
    extractor: Any = InfoExtractor
    extractor._parse_m3u8_formats_and_subtitles = _wrap_hls_parser(
        extractor._parse_m3u8_formats_and_subtitles
    )
    extractor._parse_mpd_periods = _wrap_dash_parser(extractor._parse_mpd_periods)
    extractor._parse_html5_media_entries = _wrap_html_parser(extractor._parse_html5_media_entries)
    extractor._extract_m3u8_formats = _wrap_format_extractor("_extract_m3u8_formats_and_subtitles")
    extractor._extract_mpd_formats = _wrap_format_extractor("_extract_mpd_formats_and_subtitles")


def complete_hls(text: str) -> str:
    """Return the playlist *text* with a name for each rendition: yt-dlp skips those without one."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#EXT-X-MEDIA:"):
            media = parse_m3u8_attributes(line)
            if not media.get("NAME"):
                name = media.get("LANGUAGE") or media.get("GROUP-ID") or ""
                lines[number] = f'{line},NAME="{name}{number}"'
    return "\n".join(lines)


def complete_dash(manifest: Element) -> None:
    """Add a MIME type to each Representation of *manifest* without one, which yt-dlp cannot read."""
    for adaptation_set in manifest.iter():
        if adaptation_set.tag.rpartition("}")[2] != "AdaptationSet":
            continue
        for representation in adaptation_set.findall("{*}Representation"):
            attributes = {**adaptation_set.attrib, **representation.attrib}
            if not attributes.get("mimeType"):
                kind = attributes.get("contentType", "")
                representation.set("mimeType", _MIME_TYPES.get(kind, "application/octet-stream"))


def annotate_hls(formats: list[Info], subtitles: dict[str, list[Info]], text: str, url: str) -> None:
    """Add the properties of renditions in the master playlist *text* to *formats* and *subtitles*."""
    groups: dict[tuple[str, str], list[_Attributes]] = {}
    variants: dict[str, _Attributes] = {}
    stream: _Attributes = {}
    for line in text.splitlines():
        if line.startswith("#EXT-X-MEDIA:"):
            media = parse_m3u8_attributes(line)
            groups.setdefault((media.get("TYPE", ""), media.get("GROUP-ID", "")), []).append(media)
        elif line.startswith("#EXT-X-STREAM-INF:"):
            stream = parse_m3u8_attributes(line)
        elif line.strip() and not line.startswith("#"):
            variants.setdefault(_join(url, line.strip()), stream)
    renditions: dict[tuple[str, str], Info] = {}
    # By group: the first rendition that has no URI, because it is within the variants.
    own_audio: dict[str, tuple[_Attributes, Info]] = {}
    for (kind, group), members in groups.items():
        for media, properties in zip(members, _hls_properties(members), strict=True):
            renditions.setdefault((kind, _join(url, media.get("URI") or "")), properties)
            if kind == "AUDIO" and not media.get("URI"):
                own_audio.setdefault(group, (media, properties))
    for form in (form for forms in subtitles.values() for form in forms):
        form.update(renditions.get(("SUBTITLES", str(form.get("url"))), {}))
    for stream_format in formats:
        address = str(stream_format.get("url"))
        rendition = renditions.get(("AUDIO", address))
        if rendition is not None and stream_format.get("vcodec") == "none":
            stream_format.update(_without_name(rendition))
        elif address in variants and (own := own_audio.get(variants[address].get("AUDIO", ""))):
            _add_own_audio(stream_format, variants[address], *own)


def _add_own_audio(stream: Info, variant: _Attributes, media: _Attributes, properties: Info) -> None:
    """Add the *properties* of the audio muxed into *stream*: the rendition *media* without a URI.

    yt-dlp treats the audio as missing if the first rendition of the group has a URI.
    """
    stream.update(_without_name(properties))
    stream["language"] = stream.get("language") or media.get("LANGUAGE")
    if stream.get("acodec") == "none":
        stream["acodec"] = parse_codecs(variant.get("CODECS")).get("acodec")


def _hls_properties(members: list[_Attributes]) -> Iterator[Info]:
    """Yield the properties of each rendition of a group; the first full one is the default unless marked."""
    roles = [track_roles.from_hls(media) for media in members]
    complete = [n for n, role in enumerate(roles) if track_roles.is_complete(role)]
    marked = {n for n, media in enumerate(members) if media.get("DEFAULT") == "YES"}
    defaults = marked or {*complete[:1]} or {0}
    counts: Counter[tuple[str, ...]] = Counter()
    for number, (media, role) in enumerate(zip(members, roles, strict=True)):
        name = media.get("NAME", "")
        signature = (media.get("LANGUAGE", ""), name, str(role))
        yield {ROLE: role, IS_DEFAULT: number in defaults, NUMBER: counts[signature], "name": name}
        counts[signature] += 1


def annotate_dash(period: Info, element: Element) -> None:
    """Add the properties of the AdaptationSets in *element* to yt-dlp's *period* of an MPD."""
    formats = iter(period["formats"])
    stream = next(formats, None)
    texts = {language: iter(forms) for language, forms in period["subtitles"].items()}
    audio: list[Info] = []
    counts: Counter[tuple[Any, ...]] = Counter()
    for adaptation_set in element.iterfind("{*}AdaptationSet"):
        properties = _dash_properties(adaptation_set)
        language = adaptation_set.get("lang")
        is_text = False
        # yt-dlp keeps the order of representations, and skips those that it cannot read.
        for representation in adaptation_set.iterfind("{*}Representation"):
            attributes = {**adaptation_set.attrib, **representation.attrib}
            if stream is not None and _is_stream_of(stream, attributes):
                if stream.get("vcodec") == "none" or attributes.get("mimeType", "").startswith("audio/"):
                    stream.update(_without_name(properties))
                    audio.append(stream)
                stream = next(formats, None)
            elif form := next(texts.get(attributes.get("lang") or "und", iter(())), None):
                signature = (language, properties["name"], properties[ROLE])
                form.update({**properties, NUMBER: counts[signature]})
                is_text = True
        if is_text:
            counts[(language, properties["name"], properties[ROLE])] += 1
    main = [stream for stream in audio if stream[ROLE] == TrackRole.TRACK_ROLE_UNSPECIFIED] or audio
    default = next((stream for stream in main if stream[IS_DEFAULT]), main[0] if main else None)
    for stream in audio:
        is_default = default is not None and stream.get("language") == default.get("language")
        stream[IS_DEFAULT] = is_default and stream in main


def _is_stream_of(stream: Info, attributes: _Attributes) -> bool:
    """Return whether *stream* is yt-dlp's stream of the representation with these *attributes*."""
    name, kind = attributes.get("id"), attributes.get("mimeType", "").partition("/")[0]
    content_type = attributes.get("contentType", kind)
    format_id = str(stream.get("format_id"))
    expected = name if name is not None else content_type
    bandwidth = float_or_none(int_or_none(attributes.get("bandwidth")), 1000)
    return content_type != "text" and format_id.endswith(expected) and stream.get("tbr") in (bandwidth, None)


def _dash_properties(adaptation_set: Element) -> Info:
    labels = (label.text for label in adaptation_set.iterfind("{*}Label") if label.text)
    name = next(labels, None) or adaptation_set.get("label") or ""
    descriptors = [
        (each.get("schemeIdUri", ""), each.get("value", ""))
        for tag in ("Role", "Accessibility")
        for each in adaptation_set.iterfind(f"{{*}}{tag}")
    ]
    return {
        ROLE: track_roles.from_dash(descriptors, adaptation_set.get("lang") or "", name),
        IS_DEFAULT: any(value == "main" for _, value in descriptors),
        "name": name.strip(),
    }


def annotate_html(entries: list[Info], page: str, base_url: str) -> None:
    """Add the labels and kinds of the <track> elements of *page* to the subtitles of *entries*."""
    tracks: dict[str, Info] = {}
    for number, tag in enumerate(_TRACK_TAG.finditer(page)):
        if number == _MAX_TRACKS:
            break
        attributes = extract_attributes(tag[0])
        name = attributes.get("label") or ""
        role = track_roles.from_texts(attributes.get("srclang") or "", name)
        if attributes.get("kind") == "captions":
            role = role or TrackRole.TRACK_ROLE_HEARING_IMPAIRED
        url = _join(base_url, (attributes.get("src") or "").strip())
        tracks.setdefault(url, {"name": name, ROLE: role, IS_DEFAULT: "default" in attributes})
    for entry in entries:
        for forms in (entry.get("subtitles") or {}).values():
            for form in forms:
                form.update(tracks.get(str(form.get("url")), {}))


def _join(base: str, reference: str) -> str:
    """Return the absolute URL of *reference*; empty if it is invalid."""
    try:
        return urljoin(base, reference)
    except ValueError:
        return ""


def _without_name(properties: Info) -> Info:
    """Return *properties* without the name, which yt-dlp keeps as the note of a stream."""
    return {key: properties[key] for key in (ROLE, IS_DEFAULT)}


def _wrap_hls_parser(parse: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse)
    def parse_and_annotate(
        self: Any, m3u8_doc: str, m3u8_url: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        formats, subtitles = parse(self, complete_hls(m3u8_doc), m3u8_url, *args, **kwargs)
        annotate_hls(formats, subtitles, m3u8_doc, m3u8_url or "")
        return formats, subtitles

    return parse_and_annotate


def _wrap_dash_parser(parse: Callable[..., Iterable[Info]]) -> Callable[..., Iterator[Info]]:
    @functools.wraps(parse)
    def parse_and_annotate(self: Any, mpd_doc: Element, *args: Any, **kwargs: Any) -> Iterator[Info]:
        complete_dash(mpd_doc)
        periods = parse(self, mpd_doc, *args, **kwargs)
        for period, element in zip(periods, mpd_doc.iterfind("{*}Period"), strict=False):
            annotate_dash(period, element)
            yield period

    return parse_and_annotate


def _wrap_html_parser(parse: Callable[..., list[Info]]) -> Callable[..., list[Info]]:
    @functools.wraps(parse)
    def parse_and_annotate(self: Any, base_url: str, webpage: str, *args: Any, **kwargs: Any) -> list[Info]:
        entries = parse(self, base_url, webpage, *args, **kwargs)
        annotate_html(entries, webpage, base_url)
        return entries

    return parse_and_annotate


def _wrap_format_extractor(method: str) -> Callable[..., list[Info]]:
    """Return a method that extracts formats only, and attaches the subtitles of *method* to them."""

    def extract_formats(self: Any, *args: Any, **kwargs: Any) -> list[Info]:
        formats, subtitles = getattr(self, method)(*args, **kwargs)
        if subtitles:
            for stream in formats:
                stream[MANIFEST_SUBTITLES] = subtitles
        return list(formats)

    return extract_formats
