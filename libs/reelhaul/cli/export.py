"""``reelhaul export``: jobs as M3U playlists, podcast feeds, and libraries of Jellyfin and Kodi."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click

from reelhaul import file_names
from reelhaul.cli.commands import FAILED, Group
from reelhaul.cli.display import Display, create_display
from reelhaul.cli.export_formats import (
    Item,
    format_episode,
    format_feed,
    format_m3u,
    format_movie,
    format_show,
    main_file,
)
from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import emit_json
from reelhaul.cli.parameters import Seconds
from reelhaul.cli.saving import check_folder
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.rest import Client
from reelhaul.type.v1.media_pb2 import ArtifactInfo

F = TypeVar("F", bound=Callable[..., object])

# The longest life of a signed link.
_LINK_TTL = "7d"


def _selection(command: F) -> F:
    """Add the arguments and options that select jobs."""
    options = [
        click.argument("job_ids", metavar="[JOB_ID]…", nargs=-1),
        click.option("--schedule", default="", metavar="ID", help="The jobs of this schedule."),
        click.option("--filter", "where", default="", help='The jobs that match, e.g. labels.team = "red".'),
        click.option(
            "--limit",
            type=click.IntRange(1, 10_000),
            default=100,
            show_default=True,
            help="Most jobs to take.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _written(command: F) -> F:
    """Add the options of a file with links."""
    ttl = click.option(
        "--link-ttl",
        type=Seconds(),
        default=_LINK_TTL,
        show_default=True,
        help="How long the links work, at most 7d: create the file again before.",
    )
    output = click.option(
        "-o",
        "--output",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File to write, in one step. Default: standard output.",
    )
    return ttl(output(command))


@click.group(cls=Group)
def export() -> None:
    """Export jobs for players, podcast apps and media servers.

    JOB_ID is a job, a playlist or a batch. Only jobs that succeeded are exported.
    """


@export.command()
@_selection
@_written
@click.option("--names", is_flag=True, help="Write file names, as `jobs save` saves them, instead of links.")
@client_command
def m3u(
    file: Path | None, link_ttl: int, names: bool, connect: Connect, as_json: bool, **selection: Any
) -> None:
    """Write an M3U playlist of jobs.

    Its links need no key: whoever has them can read the files.
    """
    with connect() as client:
        jobs = list(_select(client, **selection))
        jobs.sort(key=lambda job: job.create_time.ToNanoseconds())
        items = _items(client, jobs, None if names else link_ttl)
        if as_json:
            _emit(items)
        else:
            _write(file, format_m3u(items))


@export.command()
@_selection
@_written
@click.option("--title", default="Reelhaul", show_default=True, help="Title of the feed.")
@client_command
def feed(
    file: Path | None, link_ttl: int, title: str, connect: Connect, as_json: bool, **selection: Any
) -> None:
    """Write a podcast feed (RSS) of jobs, newest first.

    Its links need no key: whoever has them can read the files.
    """
    with connect() as client:
        items = _items(client, _select(client, **selection), link_ttl)
        if as_json:
            _emit(items)
        else:
            _write(file, format_feed(items, title=title, link=client.server))


@export.command()
@_selection
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of the library. Default: the working directory.",
)
@client_command
def nfo(output: Path, connect: Connect, as_json: bool, **selection: Any) -> int:
    """Save jobs as a library of Jellyfin or Kodi.

    A single video becomes a movie, "Title (2026)/Title (2026).mp4", a playlist a show with its entries as
    episodes, "Playlist/Season 01/Playlist S01E01 Title.mp4". NFO files beside them have the metadata.
    Files that are there already are not saved again.
    """
    check_folder(output)
    display = create_display(as_json)
    try:
        with connect() as client:
            library = _Library(client, output, display)
            for job in _select(client, **selection):
                library.add(job)
    finally:
        display.close()
    return 0 if library.count else FAILED


class _Library:
    """The folder of a media server, to which jobs are added."""

    def __init__(self, client: Client, folder: Path, display: Display) -> None:
        self._client, self._folder, self._display = client, folder, display
        self._shows: dict[str, Job] = {}
        # Job ids of the playlists' entries in their order; the place is the number of the episode.
        self._episodes: dict[str, list[str]] = {}
        self.count = 0

    def add(self, job: Job) -> None:
        """Save the files of *job* with its NFO file. Raises CallFailed, SaveFailed."""
        file = main_file(job)
        if file is None:
            return
        item = Item(job, file, "")
        if job.parent_job:
            show = self._show(job.parent_job)
            title = show.media.title or "Playlist"
            number = self._episodes[show.name].index(job.name) + 1
            folder = self._folder / _name(title)
            stem = f"{_name(title, 80)} S01E{number:02} {_name(item.title, 80)}"
            self._write(folder / "tvshow.nfo", format_show(show))
            self._save(job, folder / "Season 01", stem, format_episode(item, show=title, number=number))
        else:
            stem = f"{_name(item.title)} ({item.time:%Y})"
            self._save(job, self._folder / stem, stem, format_movie(item))
        self.count += 1

    def _show(self, name: str) -> Job:
        if name not in self._shows:
            self._shows[name] = self._client.jobs.get(name)
            entries = self._client.jobs.list(f'parent_job = "{name}"', order_by="create_time")
            self._episodes[name] = [entry.name for entry in entries]
        return self._shows[name]

    def _save(self, job: Job, folder: Path, stem: str, details: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        files, chapters = list[File](), 0
        for artifact in job.artifacts:
            suffix = _suffix(artifact)
            if artifact.kind == ArtifactInfo.CHAPTER:
                chapters += 1
                suffix = f".chapter{chapters:02}{suffix}"
            files.append(
                File(
                    name=f"{stem}{suffix}",
                    url=f"/v1/{artifact.name}:download",
                    size_bytes=artifact.size_bytes,
                    sha256=artifact.checksums.sha256.hex(),
                )
            )
        for saved in self._client.save_files(files, folder, on_exists="replace"):
            self._display.saved(saved)
        self._write(folder / f"{stem}.nfo", details)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _suffix(artifact: ArtifactInfo) -> str:
    """Return what media servers expect after the name of the video."""
    extension = Path(artifact.file_name).suffix
    match artifact.kind:
        case ArtifactInfo.SUBTITLE:
            return f".{file_names.sanitize_untrusted(artifact.language_code)}{extension}"
        case ArtifactInfo.THUMBNAIL:
            return f"-thumb{extension}"
        case ArtifactInfo.INFO:
            return f".info{extension}"
    return extension


def _select(client: Client, job_ids: tuple[str, ...], schedule: str, where: str, limit: int) -> Iterator[Job]:
    """Yield the selected jobs that succeeded and have files, newest first."""
    conditions = ["state = SUCCEEDED", *([f"({where})"] if where else [])]
    if schedule:
        conditions.append(f'schedule = "schedules/{_quoted(schedule.removeprefix("schedules/"))}"')
    if not job_ids:
        if not where and not schedule:
            raise click.UsageError("select jobs: give their ids, --schedule or --filter")
        jobs = client.jobs.list(" AND ".join(conditions), full=True)
        yield from islice((job for job in jobs if job.artifacts), limit)
        return
    for job_id in islice(job_ids, limit):
        batch = f'batch_id = "{_quoted(job_id.removeprefix("jobs/"))}"'
        entries = [
            job for job in client.jobs.list(" AND ".join([*conditions, batch]), full=True) if job.artifacts
        ]
        yield from islice(entries, limit) if entries else _only(client.jobs.get(job_id))


def _only(job: Job) -> Iterator[Job]:
    if job.state != Job.SUCCEEDED:
        raise click.UsageError(f"{job.name} has not succeeded: it is {Job.State.Name(job.state)}")
    if job.artifacts:
        yield job


def _items(client: Client, jobs: Iterator[Job] | list[Job], link_ttl: int | None) -> Iterator[Item]:
    """Yield the main file of each job with a link that works for *link_ttl* seconds, or with its name."""
    for job in jobs:
        if (file := main_file(job)) is not None:
            if link_ttl is None:
                location = file_names.sanitize_untrusted(file.file_name)
            else:
                location = client.jobs.sign_url(file.name, ttl_seconds=link_ttl).url
            yield Item(job, file, location)


def _emit(items: Iterator[Item]) -> None:
    for item in items:
        size = {"seconds": item.seconds, "size_bytes": item.file.size_bytes}
        emit_json({"job": item.job.name, "title": item.title, "url": item.location, **size})


def _write(path: Path | None, text: str) -> None:
    """Write *text* to the file, which readers find complete, or to standard output."""
    if path is None:
        click.echo(text, nl=False)
        return
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
            file.write(text)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise click.UsageError(f"--output: {path} cannot be written: {error.strerror}") from None


def _name(title: str, size: int = 100) -> str:
    """Return *title* as a part of a file name of at most *size* characters."""
    return file_names.sanitize_untrusted(title)[:size].rstrip(" .")


def _quoted(text: str) -> str:
    """Return *text* for a string in a filter."""
    return text.replace("\\", "").replace('"', "")
