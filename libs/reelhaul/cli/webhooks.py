"""``reelhaul webhooks``: creates, lists, changes, tests and deletes webhooks, and shows their deliveries."""

from __future__ import annotations

import sys
from datetime import UTC
from itertools import islice
from typing import Any

import click

from reelhaul.cli.commands import Group
from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import as_json_value, emit_json, format_enum, printable
from reelhaul.cli.parameters import Seconds
from reelhaul.jobs.v1.webhook_pb2 import Delivery, Webhook

_EVENT_HELP = "Type of events, e.g. job.succeeded or job.*; may be repeated."
_FILTER_HELP = "Filter on the jobs whose events are sent, e.g. labels.team = red."


@click.group(cls=Group)
def webhooks() -> None:
    """Manage webhooks: endpoints that receive signed events of jobs."""


@webhooks.command()
@click.argument("url")
@click.option("--id", "webhook_id", default="", help="Its id. Default: the server creates one.")
@click.option("--event", "events", multiple=True, help=f"{_EVENT_HELP} Default: all.")
@click.option("--filter", "where", default="", help=_FILTER_HELP)
@client_command
def create(
    url: str, webhook_id: str, events: tuple[str, ...], where: str, connect: Connect, as_json: bool
) -> None:
    """Create a webhook and print its secret, which is not shown again."""
    webhook = {"url": url, "eventTypes": list(events), "filter": where}
    with connect() as client:
        _print_new(client.webhooks.create(webhook, webhook_id), as_json)


@webhooks.command("list")
@client_command
def list_(connect: Connect, as_json: bool) -> None:
    """List webhooks, newest first: id, state, events, URL."""
    with connect() as client:
        for webhook in client.webhooks.list():
            if as_json:
                emit_json(as_json_value(webhook))
            else:
                click.echo(_format_line([_id(webhook), _state(webhook), _events(webhook), webhook.url]))


@webhooks.command()
@click.argument("webhook")
@client_command
def show(webhook: str, connect: Connect, as_json: bool) -> None:
    """Show a webhook."""
    with connect() as client:
        _print_webhook(client.webhooks.get(webhook), as_json)


@webhooks.command()
@click.argument("webhook")
@click.option("--url", help="The endpoint.")
@click.option(
    "--event", "events", multiple=True, help=f"{_EVENT_HELP[:-13]} Replaces all; '' means all types."
)
@click.option("--filter", "where", help=_FILTER_HELP)
@click.option("--disable/--enable", "disabled", default=None, help="Stop sending, or send again.")
@client_command
def update(
    webhook: str,
    url: str | None,
    events: tuple[str, ...],
    where: str | None,
    disabled: bool | None,
    connect: Connect,
    as_json: bool,
) -> None:
    """Change a webhook. --enable also lifts a suspension."""
    changes: dict[str, Any] = {}
    if url is not None:
        changes["url"] = url
    if events:
        changes["eventTypes"] = [event for event in events if event]
    if where is not None:
        changes["filter"] = where
    if disabled is not None:
        changes["disabled"] = disabled
    if not changes:
        raise click.UsageError("nothing to change: give at least one option")
    with connect() as client:
        _print_webhook(client.webhooks.update(webhook, changes, list(changes)), as_json)


@webhooks.command()
@click.argument("webhook")
@client_command
def delete(webhook: str, connect: Connect, as_json: bool) -> None:
    """Delete a webhook and its deliveries."""
    with connect() as client:
        client.webhooks.delete(webhook)
        if as_json:
            emit_json({})


@webhooks.command()
@click.argument("webhook")
@client_command
def test(webhook: str, connect: Connect, as_json: bool) -> int:
    """Send a test event and show how the endpoint responds. The exit code is 1 if it fails."""
    with connect() as client:
        delivery = client.webhooks.test(webhook)
        _print_delivery(delivery, as_json)
        return 0 if delivery.state == Delivery.SUCCEEDED else 1


@webhooks.command("rotate-secret")
@click.argument("webhook")
@click.option(
    "--grace", type=Seconds(), help="How long the old one signs too, e.g. 1h; at most 7d. Default: 24h."
)
@client_command
def rotate_secret(webhook: str, grace: int | None, connect: Connect, as_json: bool) -> None:
    """Give a webhook a new secret and print it; it is not shown again."""
    with connect() as client:
        _print_new(client.webhooks.rotate_secret(webhook, grace), as_json)


@webhooks.command()
@click.argument("webhook")
@click.option("--filter", "where", default="", help='E.g. state = FAILED AND event_type = "job.failed".')
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of deliveries."
)
@client_command
def deliveries(webhook: str, where: str, limit: int, connect: Connect, as_json: bool) -> None:
    """List deliveries of the last 7 days, newest first: name, state, event, HTTP status, tries, error."""
    with connect() as client:
        for delivery in islice(client.webhooks.list_deliveries(webhook, where), limit):
            if as_json:
                emit_json(as_json_value(delivery))
            else:
                click.echo(_format_line(_delivery_columns(delivery)))


@webhooks.command()
@click.argument("delivery")
@client_command
def redeliver(delivery: str, connect: Connect, as_json: bool) -> None:
    """Send a delivery again, by its name, which `webhooks deliveries` shows."""
    with connect() as client:
        _print_delivery(client.webhooks.redeliver(delivery), as_json)


def _id(webhook: Webhook) -> str:
    return webhook.name.removeprefix("webhooks/")


def _state(webhook: Webhook) -> str:
    return format_enum(Webhook.State.Name(webhook.state))


def _events(webhook: Webhook) -> str:
    return " ".join(webhook.event_types) or "all"


def _delivery_columns(delivery: Delivery) -> list[str]:
    state = format_enum(Delivery.State.Name(delivery.state))
    tries = f"{delivery.attempt_count} tries" if delivery.attempt_count != 1 else "1 try"
    status = str(delivery.http_status or "")
    return [delivery.name, state, delivery.event_type, status, tries, delivery.error.message]


def _format_line(columns: list[str]) -> str:
    """Return one line: in columns for people, tab-separated for programs."""
    return ("  " if sys.stdout.isatty() else "\t").join(map(printable, columns)).rstrip(" ")


def _print_new(webhook: Webhook, as_json: bool) -> None:
    _print_webhook(webhook, as_json)
    if not webhook.secret:
        text = "the response with the secret was lost: `reelhaul webhooks rotate-secret` creates another one"
        raise click.ClickException(text)
    if not as_json:
        click.echo("This is the only time that the secret is shown.", err=True)


def _print_webhook(webhook: Webhook, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(webhook))
        return
    _print_values(
        {
            "id": _id(webhook),
            "url": webhook.url,
            "secret": webhook.secret,
            "state": _state(webhook),
            "events": _events(webhook),
            "filter": webhook.filter,
            "created": f"{webhook.create_time.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC",
        }
    )


def _print_delivery(delivery: Delivery, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(delivery))
        return
    names = ("delivery", "state", "event", "status", "tries", "error")
    _print_values(dict(zip(names, _delivery_columns(delivery), strict=True)))


def _print_values(values: dict[str, str]) -> None:
    for name, value in values.items():
        if value:
            click.echo(printable(f"{name + ':':11}{value}"))
