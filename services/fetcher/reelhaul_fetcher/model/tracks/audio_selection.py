"""Audio selection: chooses audio for a request by language and role, then by quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec, TrackRole
from reelhaul_fetcher.model import codecs
from reelhaul_fetcher.model.tracks import languages, track_roles
from reelhaul_runtime.errors import ReelhaulError

#: Reasons of ``check_language``.
REASONS = frozenset({media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS, media_pb2.Warning.TRACK_ROLE_DIFFERS})

_ORIGINAL = "original"
# Greater than every distance of languages.
_MAX_DISTANCE = 10_000


def fitness(stream: Format, spec: FormatSpec) -> tuple[int, ...]:
    """Return how well the audio of *stream* fits *spec*, without its quality.

    Greater is better: its role, then its rank among the requested languages.
    """
    request_rank, _, role_matches = _best_request(stream, spec)
    is_dub = stream.HasField("original_audio") and not stream.original_audio
    return (_is_main(stream.role) or role_matches, request_rank, not is_dub)


def choose_best(offered: Sequence[Format], spec: FormatSpec, container: codecs.Container.ValueType) -> Format:
    """Return the best audio of *offered*, which is sorted from worst to best, for *spec* in *container*."""
    return max(reversed(offered), key=_rank(offered, spec, container))


def check_language(audio: Format | None, spec: FormatSpec) -> list[media_pb2.Warning]:
    """Return a warning if *audio*, which is delivered, is not in a requested language and role.

    Raises FORMAT_UNAVAILABLE if ``language_required`` is set.
    """
    requested = [language for language in spec.audio.languages if language != _ORIGINAL]
    if audio is None:
        text = f"this media has no audio; {_enumerate(requested)} was requested" if requested else ""
        return _differs(text, requested, spec)
    requests = [track_roles.split_request(language) for language in requested]
    matched = [
        language
        for language, role in requests
        if _distance(audio, language) is not None and (audio.role == role if role else _is_main(audio.role))
    ]
    if not requested or matched:
        return _check_variant(audio, matched)
    text = f"no audio in {_enumerate(requested)} is offered"
    if not audio.language_code:
        text = f"the site does not state the language of its audio; {_enumerate(requested)} was requested"
    return _differs(f"{text}: the audio is {_describe(audio)}", requested, spec)


def _check_variant(audio: Format, matched: list[str]) -> list[media_pb2.Warning]:
    """Return a warning if *audio* differs in region from all of *matched*, or is not the main audio."""
    if matched and all(languages.differs_in_region(language, audio.language_code) for language in matched):
        text = f"no audio in {_enumerate(matched)} is offered: the audio is {_describe(audio)}"
        reason = media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS
    elif not matched and not _is_main(audio.role):
        text = f"the only audio that is offered is {_describe(audio)}"
        reason = media_pb2.Warning.TRACK_ROLE_DIFFERS
    else:
        return []
    return [media_pb2.Warning(reason=reason, message=text, language_code=audio.language_code)]


def _differs(text: str, requested: list[str], spec: FormatSpec) -> list[media_pb2.Warning]:
    if not text:
        return []
    if spec.audio.language_required:
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)
    return [
        media_pb2.Warning(
            reason=media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS, message=text, language_code=requested[0]
        )
    ]


def _rank(
    offered: Sequence[Format], spec: FormatSpec, container: codecs.Container.ValueType
) -> Callable[[Format], Any]:
    sign = -1 if spec.smallest else 1
    copied_codecs = {FormatSpec.Audio.M4A: "aac", FormatSpec.Audio.OPUS: "opus", FormatSpec.Audio.MP3: "mp3"}
    copied = copied_codecs.get(spec.audio.format)
    default_languages = {stream.language_code for stream in offered if stream.default_audio}

    def rank(stream: Format) -> tuple[Any, ...]:
        is_main, request_rank, _ = fitness(stream, spec)
        _, distance, _ = _best_request(stream, spec)
        original = (stream.original_audio + 1) if stream.HasField("original_audio") else 1.5
        codec = codecs.family(stream.audio_codec)
        return (
            is_main,
            request_rank,
            -distance,
            original,
            stream.language_code in default_languages,
            track_roles.preference(stream.role),
            codec == copied,
            codecs.is_playable(codec, container),
            sign * stream.bitrate_bps,
        )

    return rank


def _best_request(stream: Format, spec: FormatSpec) -> tuple[int, int, bool]:
    """Return the rank of the first requested language that *stream* matches, 0 if none.

    Also returns the distance between the two, and whether the request names the role of *stream*.
    """
    requests = [track_roles.split_request(language) for language in spec.audio.languages or [_ORIGINAL]]
    for index, (language, role) in enumerate(requests):
        if role and role != stream.role:
            continue
        if (distance := _distance(stream, language)) is not None:
            return len(requests) - index, distance, bool(role)
    return 0, _MAX_DISTANCE, False


def _distance(stream: Format, language: str) -> int | None:
    if language == _ORIGINAL:
        return None if stream.HasField("original_audio") and not stream.original_audio else 0
    return languages.distance(language, stream.language_code, spoken=True)


def _is_main(role: TrackRole.ValueType) -> bool:
    """Return whether audio of *role* is chosen without a request for that role."""
    return track_roles.is_complete(role)


def _describe(audio: Format) -> str:
    language = f"in {audio.language_code}" if audio.language_code else "in an unknown language"
    role = track_roles.TEXT.get(audio.role)
    return f"{language} ({role})" if role else language


def _enumerate(requested: list[str]) -> str:
    return ", ".join(requested)
