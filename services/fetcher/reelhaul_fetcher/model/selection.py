"""Which of the offered streams to take for what was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec
from reelhaul_fetcher.model import codecs, selectors
from reelhaul_runtime.errors import ReelhaulError

Choice = tuple[list[Format], list[media_pb2.Warning]]

# Taller than any picture, where the least is looked for.
_UNTOLD = 10_000

# Fewest moving parts first: a plain file is resumed and checked by its length.
_PROTOCOLS = ("hls", "dash", "https")


def choose_formats(
    offered: Sequence[Format], spec: FormatSpec, excluded_codecs: frozenset[str] = frozenset()
) -> Choice:
    """The streams to take, video first, and the wishes that they do not meet.

    *offered* is worst first: of equals the last is taken. Pictures in codecs that are *barred*
    (ffmpeg's names) are not taken.

    Raises FORMAT_UNAVAILABLE where nothing offered meets *spec*, MEDIA_DRM_PROTECTED where
    all that would is protected.
    """
    playable = [stream for stream in offered if not stream.drm]
    if offered and not playable:
        raise ReelhaulError(ErrorReason.MEDIA_DRM_PROTECTED, "every stream of this media is DRM protected")
    if spec.media_kind == FormatSpec.SUBTITLES_ONLY:
        return [], []
    if spec.selector:
        return taken([s for s in playable if codecs.family(s.video_codec) not in excluded_codecs], spec), []
    if spec.media_kind == FormatSpec.AUDIO:
        return _audio_only(playable, spec)
    usable = [s for s in playable if codecs.family(s.video_codec) not in excluded_codecs]
    if any(s.video_codec for s in playable) and not any(s.video_codec for s in usable):
        raise _unavailable(
            f"streams in {', '.join(sorted(excluded_codecs))} can be fetched here, but not cut"
        )
    return _video(usable, spec)


def display_height(stream: Format) -> int:
    """The picture's height as people count it: the shorter side of a portrait; 0 where unknown."""
    return min(stream.width, stream.height) if stream.width and stream.height else stream.height


def _audio_only(offered: list[Format], spec: FormatSpec) -> Choice:
    sounding = [stream for stream in offered if stream.audio_codec]
    if not sounding:
        raise _unavailable("no stream of this media has sound")
    apart = [stream for stream in sounding if not stream.video_codec]
    if apart:
        best, warnings = _best_audio(apart, spec, codecs.Container.CONTAINER_UNSPECIFIED)
        return [best], warnings
    # Sound alone is wanted: the smallest picture costs least.
    return [min(sounding, key=lambda s: (display_height(s) or _UNTOLD, s.bitrate_bps))], []


def _video(offered: list[Format], spec: FormatSpec) -> Choice:
    pictures = [stream for stream in offered if stream.video_codec]
    if not pictures:
        raise _unavailable("no stream of this media has a picture; ask for AUDIO")
    sounds = [stream for stream in offered if stream.audio_codec and not stream.video_codec]
    rank = _picture_rank(spec, silent=bool(sounds))
    video = max(reversed(_allowed(pictures, spec)), key=rank)
    warnings = _picture_warnings(video, spec)
    if video.audio_codec or not sounds:
        return [video], warnings
    audio, more = _best_audio(sounds, spec, spec.container or codecs.Container.MP4)
    return [video, audio], warnings + more


def _allowed(pictures: list[Format], spec: FormatSpec) -> list[Format]:
    """The pictures that meet what is no preference: heights, frame rate, dynamic range."""
    rate = spec.max_frame_rate + 0.5
    rules: list[tuple[str, Callable[[Format], bool]]] = [
        (f"at most {spec.max_height} pixels high", lambda s: display_height(s) <= spec.max_height),
        (f"at least {spec.min_height} pixels high", lambda s: display_height(s) >= spec.min_height),
        (
            f"at most {spec.max_frame_rate} frames a second",
            lambda s: s.frame_rate <= rate,
        ),
        ("of high dynamic range", lambda s: bool(s.dynamic_range)),
    ]
    asked = (
        spec.max_height > 0,
        spec.min_height > 0,
        spec.max_frame_rate > 0,
        spec.dynamic_range == FormatSpec.REQUIRE_HDR,
    )
    left = pictures
    for wanted, (words, rule) in zip(asked, rules, strict=True):
        # A height that the site does not tell is judged from the file, after the download.
        kept = [s for s in left if rule(s) or (not display_height(s) and "pixels" in words)]
        if wanted and not kept:
            raise _unavailable(f"no stream offered is {words}")
        left = kept if wanted else left
    return left


def _picture_rank(spec: FormatSpec, *, silent: bool) -> Callable[[Format], Any]:
    """How well a picture meets *spec*; *silent* ones come first where sound is offered apart."""
    liked = [codecs.VIDEO_FAMILY[codec] for codec in spec.video_codecs if codec in codecs.VIDEO_FAMILY]
    container = spec.container or codecs.Container.MP4
    wants_hdr = spec.dynamic_range in (FormatSpec.PREFER_HDR, FormatSpec.REQUIRE_HDR)
    better = -1 if spec.smallest else 1

    def rank(stream: Format) -> tuple[float, ...]:
        name = codecs.family(stream.video_codec)
        return (
            # What the site does not tell is no small picture for sure.
            -(display_height(stream) or _UNTOLD) if spec.smallest else display_height(stream),
            better * round(stream.frame_rate),
            bool(stream.dynamic_range) == wants_hdr,
            _place(name, liked),
            codecs.is_playable(name, container) + codecs.can_contain(name, container),
            _place(name, codecs.EFFICIENCY),
            bool(stream.audio_codec) != silent,
            better * stream.bitrate_bps,
            _PROTOCOLS.index(stream.protocol) if stream.protocol in _PROTOCOLS else -1,
        )

    return rank


def _best_audio(
    offered: list[Format], spec: FormatSpec, container: codecs.Container.ValueType
) -> tuple[Format, list[media_pb2.Warning]]:
    wanted = [language for language in spec.audio.languages if language != "original"]
    if wanted and not any(_speaks(s, language) for s in offered for language in wanted):
        message = f"no sound in {', '.join(wanted)} is offered"
        if spec.audio.language_required:
            raise _unavailable(message)
        warning = media_pb2.Warning(
            reason=media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS, message=message, language_code=wanted[0]
        )
        return max(reversed(offered), key=_sound_rank([], spec, container)), [warning]
    return max(reversed(offered), key=_sound_rank(list(spec.audio.languages), spec, container)), []


def _sound_rank(
    languages: list[str], spec: FormatSpec, container: codecs.Container.ValueType
) -> Callable[[Format], Any]:
    better = -1 if spec.smallest else 1
    as_it_is = {FormatSpec.Audio.M4A: "aac", FormatSpec.Audio.OPUS: "opus", FormatSpec.Audio.MP3: "mp3"}
    asked = as_it_is.get(spec.audio.format)

    def rank(stream: Format) -> tuple[float, ...]:
        original = (stream.original_audio + 1) if stream.HasField("original_audio") else 1.5
        language = next(
            (len(languages) - place for place, like in enumerate(languages) if _speaks(stream, like)), 0
        )
        name = codecs.family(stream.audio_codec)
        return (
            language,
            original,
            name == asked,
            codecs.is_playable(name, container),
            better * stream.bitrate_bps,
        )

    return rank


def _speaks(stream: Format, language: str) -> bool:
    if language == "original":
        return stream.original_audio
    return matches_language(stream.language_code, language)


def matches_language(offered: str, asked: str) -> bool:
    """Whether *offered* is *asked* or a kind of it: "en-GB" is a kind of "en"."""
    one, other = offered.lower().replace("_", "-"), asked.lower().replace("_", "-")
    return bool(one) and (one == other or one.startswith(other + "-"))


def _picture_warnings(video: Format, spec: FormatSpec) -> list[media_pb2.Warning]:
    warnings = []
    height = display_height(video)
    if spec.max_height and height and height < spec.max_height:
        text = f"the tallest picture offered up to {spec.max_height} is {height}"
        warnings.append(media_pb2.Warning(reason=media_pb2.Warning.HEIGHT_BELOW_ASKED, message=text))
    liked = [codecs.VIDEO_FAMILY.get(codec) for codec in spec.video_codecs]
    if liked and codecs.family(video.video_codec) not in (*liked, codecs.UNKNOWN):
        text = f"the picture is {codecs.family(video.video_codec)}: none of the codecs asked is offered"
        warnings.append(media_pb2.Warning(reason=media_pb2.Warning.CODEC_NOT_OFFERED, message=text))
    return warnings


def _place(name: str, liked: Sequence[str]) -> int:
    """How well *name* is liked: higher is better, 0 is not at all."""
    return len(liked) - liked.index(name) if name in liked else 0


def _unavailable(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)


def taken(offered: list[Format], spec: FormatSpec) -> list[Format]:
    """What the selector of *spec* takes, which overrides all wishes but what kind of file it is.

    Raises FORMAT_UNAVAILABLE.
    """
    wants_sound = spec.media_kind == FormatSpec.AUDIO
    try:
        chosen = selectors.parsed(spec.selector)(offered)
    except selectors.NotUnderstood as error:
        raise _unselected(spec.selector, f"the selector is not served: {error}") from None
    if not chosen:
        raise _unselected(spec.selector, "the selector takes none of the streams offered")
    kind = "sound" if wants_sound else "picture"
    if not any(s.audio_codec if wants_sound else s.video_codec for s in chosen):
        raise _unselected(spec.selector, f"the selector takes no {kind}")
    return [s for s in chosen if s.audio_codec] if wants_sound else chosen


def _unselected(selector: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text, metadata={"selector": selector})
