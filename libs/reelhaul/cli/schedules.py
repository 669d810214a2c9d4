"""``reelhaul schedules``: creates, lists, shows, pauses, resumes, runs and deletes schedules."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any

import click

from reelhaul.cli.commands import Group
from reelhaul.cli.job_template import WordUnknown, build_template
from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import (
    as_json_value,
    emit_json,
    format_enum,
    format_time,
    print_table,
    print_values,
)
from reelhaul.cli.parameters import Time, format_timestamp
from reelhaul.cli.request import build_request, template_options
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.schedule_pb2 import Schedule


@click.group(cls=Group)
def schedules() -> None:
    """Manage schedules: downloads at times of a calendar."""


@schedules.command()
@click.argument("url")
@click.option(
    "--cron",
    required=True,
    help='When: five fields of cron, e.g. "0 4 * * *", or @hourly, @daily, @weekly, @monthly, "@every 6h".',
)
@click.option("--time-zone", default="", metavar="ZONE", help='E.g. "Europe/Berlin". Default: UTC.')
@click.option("--id", "schedule_id", default="", help="Its id. Default: the server creates one.")
@click.option(
    "--new-entries-only",
    is_flag=True,
    help="Of the playlist, channel or feed at URL, take only entries that no earlier run has taken.",
)
@click.option("--skip-overlapping", is_flag=True, help="Skip a run while a job of the schedule is not done.")
@click.option("--catch-up", is_flag=True, help="Make up for missed times with one run.")
@click.option("--until", "end_time", type=Time(future=True), metavar="TIME", help="When it ends, e.g. 90d.")
@template_options
@client_command
def create(
    url: str,
    cron: str,
    time_zone: str,
    schedule_id: str,
    new_entries_only: bool,
    skip_overlapping: bool,
    catch_up: bool,
    end_time: datetime | None,
    connect: Connect,
    as_json: bool,
    **options: Any,
) -> None:
    """Create a schedule that downloads URL again and again."""
    try:
        template = build_template({"url": url, **build_request(options)})
    except WordUnknown as error:
        raise click.UsageError(str(error)) from None
    if new_entries_only:
        template.kind = Job.EXPANSION
        template.expansion.max_entries = options["max_entries"] or 0
    schedule = {
        "cron": cron,
        "timeZone": time_zone,
        "jobTemplate": as_json_value(template),
        "newEntriesOnly": new_entries_only,
        "skipOverlapping": skip_overlapping,
        "catchUp": "ONCE" if catch_up else "SKIP",
    }
    if end_time is not None:
        schedule["endTime"] = format_timestamp(end_time)
    with connect() as client:
        _print_schedule(client.schedules.create(schedule, schedule_id), as_json)


@schedules.command("list")
@click.option("--filter", "where", default="", help="E.g. state = PAUSED.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number of schedules."
)
@client_command
def list_(where: str, limit: int, connect: Connect, as_json: bool) -> None:
    """List schedules, newest first: id, state, cron, next run, URL."""
    with connect() as client:
        found = islice(client.schedules.list(where), limit)
        if as_json:
            for schedule in found:
                emit_json(as_json_value(schedule))
            return
        print_table(("id", "state", "cron", "next run", "url"), map(_columns, found))


@schedules.command()
@click.argument("schedule")
@client_command
def show(schedule: str, connect: Connect, as_json: bool) -> None:
    """Show a schedule."""
    with connect() as client:
        _print_schedule(client.schedules.get(schedule), as_json)


@schedules.command()
@click.argument("schedule")
@client_command
def pause(schedule: str, connect: Connect, as_json: bool) -> None:
    """Pause a schedule. The jobs that it has created continue."""
    with connect() as client:
        _print_schedule(client.schedules.pause(schedule), as_json)


@schedules.command()
@click.argument("schedule")
@client_command
def resume(schedule: str, connect: Connect, as_json: bool) -> None:
    """Let a paused or disabled schedule run again."""
    with connect() as client:
        _print_schedule(client.schedules.resume(schedule), as_json)


@schedules.command()
@click.argument("schedule")
@client_command
def run(schedule: str, connect: Connect, as_json: bool) -> None:
    """Create a job of a schedule now, and print its id."""
    with connect() as client:
        job = client.schedules.run(schedule)
    if as_json:
        emit_json(as_json_value(job))
    else:
        click.echo(job.name.removeprefix("jobs/"))


@schedules.command()
@click.argument("schedule")
@client_command
def delete(schedule: str, connect: Connect, as_json: bool) -> None:
    """Delete a schedule. Its jobs stay."""
    with connect() as client:
        client.schedules.delete(schedule)
    if as_json:
        emit_json({})


def _id(schedule: Schedule) -> str:
    return schedule.name.removeprefix("schedules/")


def _state(schedule: Schedule) -> str:
    return format_enum(Schedule.State.Name(schedule.state))


def _columns(schedule: Schedule) -> list[str]:
    next_run = format_time(schedule.next_run_time)
    return [_id(schedule), _state(schedule), schedule.cron, next_run, schedule.job_template.url]


def _print_schedule(schedule: Schedule, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(schedule))
        return
    seen = str(schedule.seen_entry_count) if schedule.new_entries_only else ""
    print_values(
        {
            "schedule": _id(schedule),
            "url": schedule.job_template.url,
            "cron": f"{schedule.cron} ({schedule.time_zone or 'UTC'})",
            "state": _state(schedule),
            "next run": format_time(schedule.next_run_time),
            "ends": format_time(schedule.end_time),
            "last job": schedule.last_job.removeprefix("jobs/"),
            "last error": schedule.last_error.message,
            "seen": seen and f"{seen} entries",
            "created": format_time(schedule.create_time),
        }
    )
