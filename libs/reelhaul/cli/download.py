"""``reelhaul download``: downloads URLs and saves their files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import click

from reelhaul.cli.board import follow_batches
from reelhaul.cli.commands import FAILED, INTERRUPTED, USAGE
from reelhaul.cli.display import Display, create_display, describe_board
from reelhaul.cli.job_status import has_ended, status_name
from reelhaul.cli.options import CommandFailed, Connect, client_command, save_options
from reelhaul.cli.output import as_json_value, emit_json, format_bytes, format_duration
from reelhaul.cli.request import build_request, request_options
from reelhaul.cli.saving import BackgroundSaver, Saver, check_folder
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.existing_files import OnExists
from reelhaul.requests import DownloadOptions, DownloadRequest
from reelhaul.rest import CallFailed, Client, is_playlist

_MAX_URLS, _MAX_BATCH = 10_000, 500
_STANDARD_INPUT = "-"


@click.command()
@click.argument("urls", metavar="[URL]…", nargs=-1)
@click.option(
    "-a",
    "--from-file",
    "files",
    type=click.File(),
    multiple=True,
    help="Read URLs from this file, one per line, without empty lines and those that begin with #. - is"
    " standard input.",
)
@click.option("--batch", is_flag=True, help="Create a job for each URL or for none, at most 500.")
@request_options
@save_options
@click.option("--no-wait", is_flag=True, help="Print the ids of the jobs and exit without saving files.")
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded, without a job.")
@client_command
def download(
    urls: tuple[str, ...],
    files: tuple[TextIO, ...],
    batch: bool,
    output: Path,
    on_exists: OnExists,
    no_wait: bool,
    dry_run: bool,
    connect: Connect,
    as_json: bool,
    **options: Any,
) -> int:
    """Download URLs and save their files.

    Several URLs, a file of URLs (-a) and playlists are downloaded together, and each is saved when it is
    complete. Of each saved file, the path is printed to standard output.

    Ctrl-C cancels the jobs. The recording of a live stream is ended by Ctrl-C and saved; a second Ctrl-C
    cancels it.

    Exit code: 0 if all files are saved, 1 if a download failed, 2 if the request is invalid, 130 after
    Ctrl-C.
    """
    chosen = _read_urls(urls, files)
    request = cast("DownloadOptions", build_request(options))
    if batch and request.get("playlist"):
        raise click.UsageError("--batch and --playlist cannot be combined: a playlist is a batch of its own")
    if batch and len(chosen) > _MAX_BATCH:
        raise click.UsageError(f"a batch has at most {_MAX_BATCH} URLs, not {len(chosen)}; leave out --batch")
    if not no_wait and not dry_run:
        check_folder(output)
    display = create_display(as_json)
    try:
        with connect() as client:
            if dry_run:
                return _estimate(client, chosen, request, as_json)
            run = _Run(
                client, display, as_json, None if no_wait else Saver(client, output, on_exists, display)
            )
            if len(chosen) == 1 and not batch and not request.get("playlist"):
                return run.download_one(chosen[0], request)
            return run.download_all(chosen, request, as_one=batch)
    finally:
        display.close()


class _Run:
    """One run of the command; without *saver* it only creates jobs."""

    def __init__(self, client: Client, display: Display, as_json: bool, saver: Saver | None) -> None:
        self._client, self._display, self._as_json, self._saver = client, display, as_json, saver
        self._has_failed = False

    def download_one(self, url: str, request: DownloadOptions) -> int:
        """Download one URL and save its files; return the exit code."""
        job, may_record = self._show_created(self._client.create(url, **request)), "live" in request
        if self._saver is None:
            return 0
        if not self._as_json:
            self._display.say("job", f"job {job.job_id}")
        try:
            job = _follow_recording(self._client, job.job_id, self._display, may_record=may_record)
        except KeyboardInterrupt:
            self._display.close()
            return _cancel_one(self._client, job.job_id, self._display)
        check_succeeded(job, self._as_json)
        return save_files(self._client, job, self._saver, self._display)

    def download_all(self, urls: list[str], request: DownloadOptions, *, as_one: bool) -> int:
        """Download *urls* together, and save the files of each that succeeds; return the exit code."""
        jobs: list[Download] = []
        try:
            for job in self._create(urls, request, as_one):
                jobs.append(job)
            if self._saver is None or not jobs:
                return self._creation_code(jobs)
            if not self._as_json:
                self._display.say("batch", _describe_batches(jobs, playlists="playlist" in request))
            return self._follow(jobs, self._saver)
        except KeyboardInterrupt:
            self._display.close()
            return self._cancel(jobs, playlists="playlist" in request)

    def _follow(self, jobs: list[Download], saver: Saver) -> int:
        """Follow *jobs* until they end, and save the files of each that has; return the exit code."""
        background = BackgroundSaver(saver, self._display)
        try:
            batches = list(dict.fromkeys(job.batch_id or job.job_id for job in jobs))
            board = follow_batches(self._client, batches, self._display, background.add)
        except BaseException:
            background.stop()
            raise
        try:
            background.wait()
        except KeyboardInterrupt:
            self._display.close()
            background.stop()
            text = "interrupted; `reelhaul jobs save ID` saves the rest of " + ", ".join(batches)
            self._display.say("interrupted", text, batch_ids=batches)
            return INTERRUPTED
        self._display.close()
        self._display.say("summary", describe_board(board), job_counts=dict(board.count()))
        return FAILED if self._has_failed or not saver.is_complete else 0

    def _creation_code(self, jobs: list[Download]) -> int:
        if not self._has_failed:
            return 0
        return FAILED if jobs else USAGE

    def _create(self, urls: list[str], request: DownloadOptions, as_one: bool) -> Iterator[Download]:
        """Create the jobs, and show each, and what is rejected."""
        if request.get("playlist"):
            for url in urls:
                try:
                    yield self._show_created(self._client.create(url, **request))
                except CallFailed as failure:
                    if len(urls) == 1:
                        raise
                    self._reject(url, failure.reason or failure.code, failure.message)
            return
        for start in range(0, len(urls), _MAX_BATCH):
            part = urls[start : start + _MAX_BATCH]
            requests: list[DownloadRequest] = [{"url": url, **request} for url in part]
            try:
                response = self._client.create_batch(requests, partial=not as_one)
            except CallFailed as failure:
                if start == 0:
                    raise
                # The jobs that exist are downloaded nevertheless.
                for url in part:
                    self._reject(url, failure.reason or failure.code, failure.message)
                continue
            for each in response.failed:
                self._reject(each.url, each.error.reason, each.error.message)
            for job in response.jobs:
                yield self._show_created(job)

    def _show_created(self, job: Download) -> Download:
        if self._as_json:
            self._display.say("created", f"job {job.job_id}", job_id=job.job_id, url=job.url)
        elif self._saver is None:
            click.echo(job.job_id)
        return job

    def _reject(self, url: str, reason: str, message: str) -> None:
        self._has_failed = True
        self._display.say("rejected", f"rejected: {url}: {reason}: {message}", url=url, reason=reason)

    def _cancel(self, jobs: list[Download], *, playlists: bool) -> int:
        """Cancel the jobs after Ctrl-C and show the result; return the exit code."""
        if playlists:
            # Also if the playlist itself has ended, this cancels its jobs.
            codes = [_cancel_one(self._client, job.job_id, self._display) for job in jobs]
            return FAILED if FAILED in codes else INTERRUPTED
        try:
            self._client.jobs.batch_cancel([job.job_id for job in jobs])
        except CallFailed as failure:
            self._display.say("cancel_failed", f"the jobs could not be cancelled: {failure}")
            return FAILED
        text = f"{len(jobs)} jobs are cancelled, unless they had ended"
        self._display.say("cancelled", text, job_ids=[job.job_id for job in jobs])
        return INTERRUPTED


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
    if as_json and has_ended(job):
        # The last message of the stream has the error.
        raise click.exceptions.Exit(FAILED)
    error = job.error
    message = error.message or f"the job is {status_name(job)}"
    failure = CallFailed(status_name(job), message, reason=error.reason, help_url=error.help)
    raise CommandFailed(failure, as_json)


def save_files(client: Client, job: Download, saver: Saver, display: Display) -> int:
    """Save all files of *job*, or of the entries of a playlist; return the exit code.

    If an entry did not succeed, the others are saved, and the exit code is that of a failure.
    """
    try:
        for entry in client.list_children(job) if is_playlist(job) else ():
            saver.save(entry)
        # Of a playlist: its warnings.
        saver.save(job)
    except KeyboardInterrupt:
        display.close()
        text = f"interrupted; `reelhaul jobs save {job.job_id}` resumes"
        display.say("interrupted", text, job_id=job.job_id)
        return INTERRUPTED
    return 0 if saver.is_complete else FAILED


def _describe_batches(jobs: list[Download], *, playlists: bool) -> str:
    """Return how many jobs there are, and the ids by which `jobs list --batch` and `jobs save` know them."""
    if playlists:
        return f"playlist {', '.join(job.job_id for job in jobs)}"
    batches = dict.fromkeys(job.batch_id for job in jobs)
    return f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}, batch {', '.join(batches)}"


def _read_urls(arguments: tuple[str, ...], files: tuple[TextIO, ...]) -> list[str]:
    """Return the URLs of the command line and of the files, each once."""
    standard_input = (sys.stdin,) if _STANDARD_INPUT in arguments else ()
    urls = dict.fromkeys(url for url in arguments if url != _STANDARD_INPUT)
    try:
        for file in (*standard_input, *files):
            lines = (line.strip() for line in islice(file, 10 * _MAX_URLS))
            urls.update(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"a file of URLs is not text in UTF-8: {error}") from None
    if not urls:
        raise click.UsageError("there is no URL: give one, or -a FILE, or - for standard input")
    if len(urls) > _MAX_URLS:
        raise click.UsageError(f"{len(urls)} URLs are too many for one command: at most {_MAX_URLS}")
    return list(urls)


def _estimate(client: Client, urls: list[str], request: DownloadOptions, as_json: bool) -> int:
    """Print what each of *urls* would deliver; return the exit code."""
    checked: DownloadOptions = {**request, "validate_only": True}
    for url in urls:
        job = client.create(url, **checked)
        if as_json:
            emit_json(as_json_value(job))
            continue
        estimate = job.estimate
        parts = [
            f"{estimate.job_count} jobs" if estimate.job_count > 1 else "",
            estimate.quality,
            estimate.format,
        ]
        if estimate.HasField("size_bytes"):
            parts.append(f"about {format_bytes(estimate.size_bytes)}")
        if estimate.HasField("fetch_seconds"):
            parts.append(f"in about {format_duration(estimate.fetch_seconds)}")
        click.echo("\t".join([url, " ".join(filter(None, parts))]))
    return 0


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


def _cancel_one(client: Client, job_id: str, display: Display) -> int:
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
