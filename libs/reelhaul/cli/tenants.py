"""``reelhaul tenants``: creates, lists, changes, disables and deletes tenants."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC
from itertools import islice
from typing import Any, TypeVar

import click

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.admin.v1.tenant_pb2 import Tenant
from reelhaul.cli.commands import Group
from reelhaul.cli.keys import LIMIT_OPTION, SITE_OPTIONS, quota_fields
from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import as_json_value, emit_json, format_enum, printable
from reelhaul.cli.parameters import Seconds

F = TypeVar("F", bound=Callable[..., object])

#: Options of create and update, with the fields that they set.
_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--name", "display_name"), {"help": "Name for people."}),
    (("--contact",), {"help": "Whom to write to, e.g. an email address."}),
    *SITE_OPTIONS,
    LIMIT_OPTION,
    (
        ("--retention",),
        {"type": Seconds(), "help": "How long jobs and files are kept at most, e.g. 30d."},
    ),
]


def _tenant_options(command: F) -> F:
    for names, attributes in reversed(_OPTIONS):
        command = click.option(*names, **attributes)(command)
    return command


@click.group(cls=Group)
def tenants() -> None:
    """Manage tenants: the persons, teams and programs that use the suite."""


@tenants.command()
@click.argument("tenant", default="")
@_tenant_options
@client_command
def create(tenant: str, connect: Connect, as_json: bool, **options: Any) -> None:
    """Create the tenant with the id TENANT, e.g. acme; without it the server chooses one."""
    with connect() as client:
        _print_tenant(client.tenants.create(_fields(options), tenant.removeprefix("tenants/")), as_json)


@tenants.command("list")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number of tenants."
)
@client_command
def list_(limit: int, connect: Connect, as_json: bool) -> None:
    """List tenants by id: id, state, contact, name."""
    with connect() as client:
        for tenant in islice(client.tenants.list(), limit):
            if as_json:
                emit_json(as_json_value(tenant))
            else:
                click.echo(_format_line(tenant))


@tenants.command()
@click.argument("tenant", default="me")
@client_command
def show(tenant: str, connect: Connect, as_json: bool) -> None:
    """Show a tenant, by default that of the key that this command uses."""
    with connect() as client:
        _print_tenant(client.tenants.get(tenant), as_json)


@tenants.command()
@click.argument("tenant", default="me")
@client_command
def usage(tenant: str, connect: Connect, as_json: bool) -> None:
    """Show the quota that a tenant has used, by default that of the key that this command uses."""
    with connect() as client:
        used = client.tenants.get_usage(tenant)
    if as_json:
        emit_json(as_json_value(used))
        return
    for metric in used.metrics:
        limit = "no limit" if metric.limit < 0 else f"of {metric.limit}"
        click.echo(printable(f"{metric.quota_metric + ':':24}{metric.used}, {limit}"))


@tenants.command()
@click.argument("tenant")
@_tenant_options
@client_command
def update(tenant: str, connect: Connect, as_json: bool, **options: Any) -> None:
    """Change a tenant. A list or quota that is given replaces the one that it has; --site '' empties it."""
    changes = _fields(options)
    if not changes:
        raise click.UsageError("nothing to change: give at least one option")
    with connect() as client:
        _print_tenant(client.tenants.update(tenant, changes, [*changes]), as_json)


@tenants.command()
@click.argument("tenant")
@client_command
def disable(tenant: str, connect: Connect, as_json: bool) -> None:
    """Let no key of a tenant work until it is enabled again; jobs that were accepted run to their end."""
    with connect() as client:
        _print_tenant(client.tenants.update(tenant, {"disabled": True}, ["disabled"]), as_json)


@tenants.command()
@click.argument("tenant")
@client_command
def enable(tenant: str, connect: Connect, as_json: bool) -> None:
    """Let the keys of a disabled tenant work again."""
    with connect() as client:
        _print_tenant(client.tenants.update(tenant, {}, ["disabled"]), as_json)


@tenants.command()
@click.argument("tenant")
@click.option("--force", is_flag=True, help="Delete all that it owns, too: keys, jobs, schedules, files.")
@client_command
def delete(tenant: str, force: bool, connect: Connect, as_json: bool) -> None:
    """Delete a tenant for good. Its keys stop working now, the rest follows in the background."""
    with connect() as client:
        _print_tenant(client.tenants.delete(tenant, force=force), as_json)


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a tenant in JSON that *options* set."""
    fields = {
        "displayName": options["display_name"],
        "contact": options["contact"],
        "retention": None if options["retention"] is None else f"{options['retention']}s",
        "allowedSites": [site for site in options["allowed_sites"] if site],
        "deniedSites": [site for site in options["denied_sites"] if site],
        "quota": quota_fields(options["limits"]),
    }
    given = {"allowedSites": "allowed_sites", "deniedSites": "denied_sites", "quota": "limits"}
    return {
        name: value
        for name, value in fields.items()
        if (options[given[name]] if name in given else value is not None)
    }


def _format_line(tenant: Tenant) -> str:
    """Return one line: in columns for people, tab-separated for programs."""
    tenant_id, state = tenant.name.removeprefix("tenants/"), format_enum(Tenant.State.Name(tenant.state))
    contact, name = printable(tenant.contact), printable(tenant.display_name)
    if not sys.stdout.isatty():
        return "\t".join([tenant_id, state, contact, name])
    return f"{tenant_id:24}  {state:8}  {contact or '-'}  {name}"


def _print_tenant(tenant: Tenant, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(tenant))
        return
    sites = [*tenant.allowed_sites, *(f"not {site}" for site in tenant.denied_sites)]
    days = tenant.retention.ToTimedelta().total_seconds() / 86_400
    values = {
        "id": tenant.name.removeprefix("tenants/"),
        "name": tenant.display_name,
        "contact": tenant.contact,
        "state": format_enum(Tenant.State.Name(tenant.state)),
        "sites": " ".join(sites),
        "limits": _format_quota(tenant.quota),
        "retention": f"{days:g} days" if days else "",
        "created": f"{tenant.create_time.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC",
    }
    for name, value in values.items():
        if value:
            click.echo(printable(f"{name + ':':11}{value}"))


def _format_quota(quota: Quota) -> str:
    return " ".join(f"{field.name}={value}" for field, value in quota.ListFields())
