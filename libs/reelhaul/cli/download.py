"""``reelhaul download``: a URL in, verified files out, and how far it is in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reelhaul.cli import display as displays
from reelhaul.cli.commands import FAILED, INTERRUPTED
from reelhaul.cli.common import check_succeeded, followed, save_all
from reelhaul.cli.display import Display
from reelhaul.cli.options import client_command
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.rest import CallFailed, Client

F = TypeVar("F", bound=Callable[..., object])

# name of the option -> how it is declared; each becomes the request field of its name.
_FORMAT: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-q", "--quality"),
        {"help": "best, 2160p, 1080p, 720p … or worst; what is offered below it is taken."},
    ),
    (("-f", "--format"), {"help": "mp4, webm, mkv; or mp3, m4a, opus, flac, wav, ogg for audio."}),
    (("-a", "--audio-only"), {"is_flag": True, "help": "Audio without video."}),
    (("--min-quality",), {"help": "Fail rather than take less than this."}),
    (("--video-codec",), {"help": "h264, h265, vp9 or av1, where offered."}),
    (("--audio-language",), {"help": 'A language like "de", or "original".'}),
    (
        ("-s", "--subtitles", "subtitle_languages"),
        {
            "multiple": True,
            "metavar": "LANG",
            "help": 'Subtitles in this language, "original" or "all"; may be repeated.',
        },
    ),
    (
        ("--subtitle-format", "subtitle_formats"),
        {"multiple": True, "metavar": "FORMAT", "help": "srt, vtt, txt or json; may be repeated."},
    ),
    (("--embed-subtitles",), {"is_flag": True, "help": "Write subtitles into the video also."}),
    (("--thumbnail",), {"is_flag": True, "help": "The thumbnail too."}),
    (("--info-json",), {"is_flag": True, "help": "The metadata as JSON too."}),
    (("--chapters",), {"help": "embed, or split into files."}),
    (("--sponsorblock",), {"help": "mark or remove sponsored stretches."}),
    (("--start", "start_seconds"), {"type": float, "metavar": "SECONDS", "help": "Only from here on."}),
    (("--end", "end_seconds"), {"type": float, "metavar": "SECONDS", "help": "Only up to here."}),
    (("--live",), {"help": "refuse, wait or record, where it is live."}),
    (("--cookies",), {"metavar": "NAME", "help": "Cookies kept at the server, to ask the site with."}),
    (("--priority",), {"help": "low, normal or high."}),
    (
        ("--label", "labels"),
        {"multiple": True, "metavar": "KEY=VALUE", "help": "A tag of your own; may be repeated."},
    ),
]


def _format_options(command: F) -> F:
    for names, how in reversed(_FORMAT):
        command = click.option(*names, **how)(command)
    return command


@click.command()
@click.argument("url")
@_format_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to save into.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file of the same name; else ours is numbered.")
@click.option("--no-wait", is_flag=True, help="Print the job and leave; nothing is saved here.")
@client_command
def download(
    url: str, output: Path, overwrite: bool, no_wait: bool, server: str, as_json: bool, **wanted: Any
) -> int:
    """Download URL and save its files.

    Exit code: 0 when the files are here, 1 when that failed, 2 when it was asked for
    wrongly, 130 after Ctrl-C, which cancels the job. But a recording of what is live ends
    with Ctrl-C, and is saved; once more cancels.
    """
    display = displays.chosen(as_json)
    try:
        with Client(server) as client:
            job = client.create(_request(url, wanted))
            display.say("created", f"job {job.job_id}", job_id=job.job_id)
            if no_wait:
                return 0
            try:
                job = _followed(client, job.job_id, display, may_record=bool(wanted["live"]))
            except KeyboardInterrupt:
                display.close()
                return _cancelled(client, job.job_id, display)
            check_succeeded(job, as_json)
            return save_all(client, job, output, overwrite, display)
    finally:
        display.close()


def _followed(client: Client, job_id: str, display: Display, *, may_record: bool) -> Download:
    """The job as it ended; Ctrl-C ends what it records, and is raised where it records nothing."""
    try:
        return followed(client, job_id, display)
    except KeyboardInterrupt:
        if not may_record:
            raise
        try:
            client.stop_recording(job_id)
        except CallFailed:
            raise KeyboardInterrupt from None
    display.say("recording_stopped", "the recording is ended; Ctrl-C again throws it away", job_id=job_id)
    return followed(client, job_id, display)


def _request(url: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """A CreateDownloadRequest as JSON, of the options that were given."""
    request = {"url": url} | {name: value for name, value in wanted.items() if value not in (None, False, ())}
    if labels := request.pop("labels", ()):
        request["labels"] = dict(_label(text) for text in labels)
    return request


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter("it must be KEY=VALUE", param_hint="--label")
    return key, value


def _cancelled(client: Client, job_id: str, display: Display) -> int:
    """Ctrl-C while it ran: cancel the job, and tell what became of it."""
    try:
        job = client.cancel(job_id, "cancelled at the terminal")
    except CallFailed as failure:
        display.say("cancel_failed", f"job {job_id} could not be cancelled: {failure}", job_id=job_id)
        return INTERRUPTED if failure.reason == "STATE_CONFLICT" else FAILED
    done = job.status == Download.CANCELLED
    text = f"job {job_id} is {'cancelled' if done else 'being cancelled'}"
    display.say("cancelled", text, job_id=job_id, status=displays.status_name(job))
    return INTERRUPTED
