"""``reelhaul download``: downloads a URL and saves its files; also the steps shared with ``jobs``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reelhaul.cli.commands import FAILED, INTERRUPTED
from reelhaul.cli.display import Display, create_display, status_name
from reelhaul.cli.options import CommandFailed, Connect, client_command, save_options
from reelhaul.cli.output import format_enum
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.existing_files import OnExists
from reelhaul.rest import CallFailed, Client

F = TypeVar("F", bound=Callable[..., object])

# Names and attributes of the options; each becomes the request field of its name.
_REQUEST_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-q", "--quality"),
        {"help": "best, 2160p, 1080p, 720p … or worst; the closest available quality below is used."},
    ),
    (
        ("-f", "--format"),
        {"help": "Container: mp4, webm, mkv; or for audio: mp3, m4a, opus, flac, wav, ogg."},
    ),
    (("-a", "--audio-only"), {"is_flag": True, "help": "Download audio without video."}),
    (("--min-quality",), {"help": "Fail if only a lower quality is available."}),
    (("--video-codec",), {"help": "Preferred video codec: h264, h265, vp9 or av1."}),
    (("--audio-language",), {"help": 'Audio language, e.g. "de", or "original".'}),
    (
        ("-s", "--subtitles", "subtitle_languages"),
        {
            "multiple": True,
            "metavar": "LANG",
            "help": 'Subtitles in this language, "original" or "all"; can be repeated.',
        },
    ),
    (
        ("--subtitle-format", "subtitle_formats"),
        {"multiple": True, "metavar": "FORMAT", "help": "srt, vtt, txt or json; can be repeated."},
    ),
    (("--embed-subtitles",), {"is_flag": True, "help": "Embed the subtitles in the video too."}),
    (("--thumbnail",), {"is_flag": True, "help": "Save the thumbnail too."}),
    (("--info-json",), {"is_flag": True, "help": "Save the metadata as JSON too."}),
    (("--chapters",), {"help": "embed them in the video, or split it into one file per chapter."}),
    (("--sponsorblock",), {"help": "mark or remove sponsored segments."}),
    (
        ("--start", "start_seconds"),
        {"type": float, "metavar": "SECONDS", "help": "Start of the clip to download."},
    ),
    (("--end", "end_seconds"), {"type": float, "metavar": "SECONDS", "help": "End of the clip to download."}),
    (
        ("--playlist",),
        {"is_flag": True, "help": "Download the entries of the playlist, channel or feed at URL."},
    ),
    (("--max-entries",), {"type": int, "metavar": "N", "help": "Most entries to take; the default is 100."}),
    (("--live",), {"help": "What to do with a live stream: refuse, wait or record."}),
    (("--cookies",), {"metavar": "NAME", "help": "Name of cookies at the server to send to the site."}),
    (
        ("--deliver-to",),
        {"metavar": "NAME", "help": "Destination at the server that the files are delivered to as well."},
    ),
    (("--priority",), {"help": "low, normal or high."}),
    (
        ("--label", "labels"),
        {"multiple": True, "metavar": "KEY=VALUE", "help": "Label of the job; can be repeated."},
    ),
]


def _request_options(command: F) -> F:
    for names, attributes in reversed(_REQUEST_OPTIONS):
        command = click.option(*names, **attributes)(command)
    return command


@click.command()
@click.argument("url")
@_request_options
@save_options
@click.option("--no-wait", is_flag=True, help="Print the job and exit without saving files.")
@client_command
def download(
    url: str, output: Path, overwrite: bool, no_wait: bool, connect: Connect, as_json: bool, **options: Any
) -> int:
    """Download URL and save its files.

    Ctrl-C cancels the job. The recording of a live stream is ended by Ctrl-C and saved; a second
    Ctrl-C cancels it.

    Exit code: 0 if the files are saved, 1 if the download failed, 2 if the request is invalid, 130
    after Ctrl-C.
    """
    display = create_display(as_json)
    try:
        with connect() as client:
            job = client.create(**_build_request(url, options))
            display.say("created", f"job {job.job_id}", job_id=job.job_id)
            if no_wait:
                return 0
            try:
                job = _follow_recording(client, job.job_id, display, may_record=bool(options["live"]))
            except KeyboardInterrupt:
                display.close()
                return _cancel(client, job.job_id, display)
            check_succeeded(job, as_json)
            return save_files(client, job, output, overwrite, display)
    finally:
        display.close()


def follow(client: Client, job_id: str, display: Display) -> Download:
    """Show the job's events until it ends; return its final state."""
    job = Download(job_id=job_id)
    for event in client.watch(job_id):
        display.event(event)
        if event.kind in ("snapshot", "completed", "failed"):
            job = getattr(event.message, event.kind)
    return job


def check_succeeded(job: Download, as_json: bool) -> None:
    """End the command with the job's error unless the job succeeded."""
    if job.status == Download.SUCCEEDED:
        return
    if as_json:
        # The last message of the stream has the error.
        raise click.exceptions.Exit(FAILED)
    error = job.error
    message = error.message or f"the job is {status_name(job)}"
    failure = CallFailed(status_name(job), message, reason=error.reason, help_url=error.help)
    raise CommandFailed(failure, as_json)


def save_files(client: Client, job: Download, folder: Path, overwrite: bool, display: Display) -> int:
    """Save all files of *job*, or of the entries of a playlist, into *folder*; return the exit code.

    If an entry did not succeed, the others are saved, and the exit code is that of a failure.
    """
    code = 0
    try:
        for entry in client.list_children(job) if is_playlist(job) else [job]:
            on_exists: OnExists = "replace" if overwrite else "number"
            for saved in client.save_files(
                entry.files, folder, on_exists=on_exists, on_progress=display.saving
            ):
                display.saved(saved.file, saved)
                if _show_delivery(saved.file, entry.deliver_to, display) == "FAILED":
                    code = FAILED
            if entry.status != Download.SUCCEEDED:
                code = FAILED
                cause = f": {entry.error.message}" if entry.error.message else ""
                text = f"not saved: {entry.title or entry.url} is {format_enum(status_name(entry))}{cause}"
                display.say("not_saved", text, job_id=entry.job_id, status=status_name(entry))
    except KeyboardInterrupt:
        display.close()
        text = f"interrupted; `reelhaul jobs save {job.job_id}` resumes"
        display.say("interrupted", text, job_id=job.job_id)
        return INTERRUPTED
    for warning in job.warnings:
        display.say("warning", f"warning: {warning}")
    return code


def _show_delivery(file: File, destination: str, display: Display) -> str:
    """Show how the delivery of *file* ended, if there is one; return its status."""
    delivery = file.delivery
    if delivery.status == "DELIVERED":
        display.say("delivered", f"delivered {delivery.uri}", uri=delivery.uri)
    elif delivery.status == "FAILED":
        text = f"not delivered to {destination}: {file.name}: {delivery.error.message}"
        display.say("not_delivered", text, file=file.name, reason=delivery.error.reason)
    return delivery.status


def is_playlist(job: Download) -> bool:
    """Return whether *job* is a playlist, whose entries have separate jobs."""
    return bool(job.batch_id) and job.batch_id == job.job_id


def _follow_recording(client: Client, job_id: str, display: Display, *, may_record: bool) -> Download:
    """Follow the job; Ctrl-C ends its recording, and is raised if there is none."""
    try:
        return follow(client, job_id, display)
    except KeyboardInterrupt:
        if not may_record:
            raise
        try:
            client.stop_recording(job_id)
        except CallFailed:
            raise KeyboardInterrupt from None
    display.say("recording_stopped", "the recording is stopped; Ctrl-C again discards it", job_id=job_id)
    return follow(client, job_id, display)


def _build_request(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return a CreateDownloadRequest in JSON with the options that were given."""
    request = {"url": url} | {
        name: value for name, value in options.items() if value not in (None, False, ())
    }
    if labels := request.pop("labels", ()):
        request["labels"] = dict(_parse_label(text) for text in labels)
    return request


def _parse_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter("must be KEY=VALUE", param_hint="--label")
    return key, value


def _cancel(client: Client, job_id: str, display: Display) -> int:
    """Cancel the job after Ctrl-C and show the result; return the exit code."""
    try:
        job = client.cancel(job_id, "cancelled at the terminal")
    except CallFailed as failure:
        display.say("cancel_failed", f"job {job_id} could not be cancelled: {failure}", job_id=job_id)
        return INTERRUPTED if failure.reason == "STATE_CONFLICT" else FAILED
    cancelled = job.status == Download.CANCELLED
    text = f"job {job_id} is {'cancelled' if cancelled else 'being cancelled'}"
    display.say("cancelled", text, job_id=job_id, status=status_name(job))
    return INTERRUPTED
