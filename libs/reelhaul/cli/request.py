"""The options that describe a download, for every command that creates jobs; each becomes a request field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from reelhaul.cli.parameters import Bytes, Position, Seconds, Time
from reelhaul.qualities import CLASSES

F = TypeVar("F", bound=Callable[..., object])

_QUALITIES = ("best", *(f"{number}p" for number in CLASSES), "worst")
_CONTAINERS, _AUDIO_FORMATS = ("mp4", "webm", "mkv"), ("mp3", "m4a", "opus", "flac", "wav", "ogg")


def _words(*words: str) -> dict[str, Any]:
    """Return the attributes of an option that a shell completes with *words*; the server checks its value."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return {"shell_complete": complete}


def _repeated(metavar: str, text: str) -> dict[str, Any]:
    return {"multiple": True, "metavar": metavar, "help": f"{text}; may be repeated."}


def _flag(text: str) -> dict[str, Any]:
    return {"is_flag": True, "help": text}


def _parse_labels(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter("must be KEY=VALUE")
        labels[key] = value
    return labels


# Names and attributes of the options; each becomes the field of its name in CreateDownloadRequest.
_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-q", "--quality"),
        {
            "help": "best, 2160p, 1080p, 720p … or worst; the closest available quality below is used.",
            **_words(*_QUALITIES),
        },
    ),
    (
        ("-f", "--format"),
        {
            "help": "Container: mp4, webm, mkv; or for audio: mp3, m4a, opus, flac, wav, ogg.",
            **_words(*_CONTAINERS, *_AUDIO_FORMATS),
        },
    ),
    (("-x", "--audio-only"), _flag("Download audio without video.")),
    (("--min-quality",), {"help": "Fail if only a lower quality is available.", **_words(*_QUALITIES[:-1])}),
    (
        ("--video-codec",),
        {
            "help": "Preferred video codec: h264, h265, vp9 or av1.",
            **_words("h264", "h265", "vp9", "av1"),
        },
    ),
    (("--max-fps",), {"type": int, "metavar": "N", "help": "Maximum frames per second."}),
    (
        ("--hdr",),
        {"help": "prefer, require or avoid high dynamic range.", **_words("prefer", "require", "avoid")},
    ),
    (
        ("--audio-bitrate",),
        {"type": int, "metavar": "KBPS", "help": "Bitrate of transcoded audio, 32 to 320."},
    ),
    (("--audio-language",), {"metavar": "LANG", "help": 'Audio language, e.g. "de", or "original".'}),
    (
        ("-s", "--subtitles", "subtitle_languages"),
        _repeated("LANG", 'Subtitles in this language, "original" or "all"'),
    ),
    (
        ("--subtitle-format", "subtitle_formats"),
        {**_repeated("FORMAT", "srt, vtt, txt or json"), **_words("srt", "vtt", "txt", "json")},
    ),
    (
        ("--subtitle-kinds",),
        {"help": "manual, auto or both: who wrote the subtitles.", **_words("manual", "auto", "both")},
    ),
    (("--translate-to",), {"metavar": "LANG", "help": "Language to translate the subtitles into."}),
    (("--embed-subtitles",), _flag("Embed the subtitles in the video too.")),
    (("--require-subtitles",), _flag("Fail if a subtitle is missing.")),
    (("--subtitles-only",), _flag("Download the subtitles without the media.")),
    (("--thumbnail",), _flag("Save the thumbnail too.")),
    (("--info-json",), _flag("Save the metadata as JSON too.")),
    (
        ("--chapters",),
        {
            "help": "embed them in the video, or split it into one file per chapter.",
            **_words("embed", "split"),
        },
    ),
    (
        ("--sponsorblock",),
        {"help": "mark or remove sponsored segments.", **_words("mark", "remove")},
    ),
    (
        ("--sponsorblock-category", "sponsorblock_categories"),
        _repeated("NAME", 'Category of segments, e.g. "intro"'),
    ),
    (
        ("--start", "start_seconds"),
        {"type": Position(), "metavar": "POSITION", "help": "Start of the clip, as seconds or [HH:]MM:SS."},
    ),
    (
        ("--end", "end_seconds"),
        {"type": Position(), "metavar": "POSITION", "help": "End of the clip, as seconds or [HH:]MM:SS."},
    ),
    (
        ("--live",),
        {
            "help": "What to do with a live stream: refuse, wait or record.",
            **_words("refuse", "wait", "record"),
        },
    ),
    (
        ("--max-size", "max_size_bytes"),
        {"type": Bytes(), "metavar": "SIZE", "help": "Fail if it is larger, e.g. 500M or 2G."},
    ),
    (
        ("--max-duration", "max_duration_seconds"),
        {
            "type": Seconds(),
            "metavar": "DURATION",
            "help": "Fail if it is longer, e.g. 90m; of a recording: stop then.",
        },
    ),
    (
        ("--playlist",),
        _flag("Download the entries of the playlist, channel or feed at URL."),
    ),
    (("--max-entries",), {"type": int, "metavar": "N", "help": "Most entries to take; the default is 100."}),
    (("--cookies",), {"metavar": "NAME", "help": "Name of cookies at the server to send to the site."}),
    (
        ("--deliver-to",),
        {"metavar": "NAME", "help": "Destination at the server that the files are delivered to as well."},
    ),
    (("--priority",), {"help": "low, normal or high.", **_words("low", "normal", "high")}),
    (
        ("--label", "labels"),
        {
            "multiple": True,
            "metavar": "KEY=VALUE",
            "callback": _parse_labels,
            "help": "Label of the job; may be repeated.",
        },
    ),
    (
        ("--keep", "ttl_seconds"),
        {"type": Seconds(), "metavar": "DURATION", "help": "How long the server keeps the files, e.g. 7d."},
    ),
]
# What a schedule decides by itself.
_TIME_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("--at", "schedule_time"),
        {
            "type": Time(future=True),
            "metavar": "TIME",
            "help": "Earliest start: 2026-12-24T18:00 in local time, or a duration from now, e.g. 8h.",
        },
    ),
]


def template_options(command: F) -> F:
    """Add the options that describe a download, but not when it starts."""
    for names, attributes in reversed(_OPTIONS):
        command = click.option(*names, **attributes)(command)
    return command


def request_options(command: F) -> F:
    """Add all options that describe a download."""
    for names, attributes in reversed(_TIME_OPTIONS):
        command = click.option(*names, **attributes)(command)
    return template_options(command)


def build_request(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a CreateDownloadRequest that *options* set."""
    return {name: value for name, value in options.items() if value not in (None, False, (), {})}
