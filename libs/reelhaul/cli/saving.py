"""Saving the files of jobs, at once or in a thread while other jobs still run."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

import click

from reelhaul.cli.display import Display
from reelhaul.cli.job_status import describe_error, job_title, status_name
from reelhaul.cli.output import format_enum
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.existing_files import OnExists, SaveFailed, prepare_folder
from reelhaul.rest import CallFailed, Client

# Of a save that receives nothing.
_STOP_SECONDS = 5.0


def check_folder(folder: Path) -> None:
    """Create *folder* if it is missing. Raises click.UsageError if files cannot be created in it."""
    try:
        prepare_folder(folder)
    except SaveFailed as error:
        raise click.UsageError(f"--output: the folder cannot be written: {error}") from None


class Saver:
    """Saves the files of jobs into *folder*, and shows them."""

    def __init__(self, client: Client, folder: Path, on_exists: OnExists, display: Display) -> None:
        self._client, self._folder, self._on_exists, self._display = client, folder, on_exists, display
        #: Whether all files of all jobs were saved, and delivered where that was requested.
        self.is_complete = True
        #: Set to end a save at its next bytes; a later one resumes.
        self.stopped = threading.Event()

    def save(self, job: Download) -> None:
        """Save the files of *job*, or show why it has none. Raises CallFailed, SaveFailed."""
        saved = self._client.save_files(
            job.files, self._folder, on_exists=self._on_exists, on_progress=self._show_progress
        )
        for each in saved:
            self._display.saved(each)
        if job.files and not saved:
            text = f"skipped: {job_title(job)}: a file with this name exists"
            self._display.say("skipped", text, job_id=job.job_id)
        for file in job.files:
            self._show_delivery(file, job.deliver_to)
        for warning in job.warnings:
            self._display.say("warning", f"warning: {warning}")
        if job.status != Download.SUCCEEDED:
            self._show_missing(job)

    def _show_progress(self, file: File, count: int) -> None:
        if self.stopped.is_set():
            raise SaveFailed("interrupted")
        self._display.saving(file, count)

    def _show_missing(self, job: Download) -> None:
        self.is_complete = False
        cause = f": {describe_error(job)}" if job.HasField("error") else ""
        text = f"not saved: {job_title(job)} is {format_enum(status_name(job))}{cause}"
        self._display.say("not_saved", text, job_id=job.job_id, status=status_name(job))

    def _show_delivery(self, file: File, destination: str) -> None:
        """Show how the delivery of *file* ended, if there is one."""
        delivery = file.delivery
        if delivery.status == "DELIVERED":
            self._display.say("delivered", f"delivered {delivery.uri}", uri=delivery.uri)
        elif delivery.status == "FAILED":
            self.is_complete = False
            text = f"not delivered to {destination}: {file.name}: {delivery.error.message}"
            self._display.say("not_delivered", text, file=file.name, reason=delivery.error.reason)


class BackgroundSaver:
    """Saves the files of jobs in a thread, one job after the other."""

    def __init__(self, saver: Saver, display: Display) -> None:
        self._saver, self._display = saver, display
        self._jobs: SimpleQueue[Download | None] = SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="save", daemon=True)
        self._thread.start()

    def add(self, job: Download) -> None:
        """Save the files of *job* after those of the jobs before it. Raises what has ended the thread."""
        if self._failure is not None:
            raise self._failure
        self._jobs.put(job)

    def wait(self) -> None:
        """Return once the files of all jobs are saved, or could not be. Raises what has ended the thread."""
        self._jobs.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop saving; what is received of a file is kept for a later save."""
        self._saver.stopped.set()
        self._jobs.put(None)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None and not self._saver.stopped.is_set():
                self._save(job)
        except Exception as error:
            # Such as a reader of the paths that is gone.
            self._failure = error

    def _save(self, job: Download) -> None:
        try:
            self._saver.save(job)
        except (CallFailed, SaveFailed) as error:
            self._saver.is_complete = False
            text = f"not saved: {job_title(job)}: {error}"
            self._display.say("not_saved", text, job_id=job.job_id, status=status_name(job))
