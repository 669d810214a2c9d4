"""``reelhaul keys``: creates, lists, changes, rotates and deletes API keys."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

import click

from reelhaul.admin.v1.api_key_pb2 import ApiKey, Quota
from reelhaul.cli.commands import Group
from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import as_json_value, emit_json, format_enum, printable
from reelhaul.cli.parameters import Seconds
from reelhaul.type.v1.method_policy_pb2 import Grant, PermissionLevel

F = TypeVar("F", bound=Callable[..., object])

_LEVEL_PREFIX, _GRANT_PREFIX = "PERMISSION_LEVEL_", "GRANT_"
_LEVELS = ("read-only", "download", "admin", "full-access")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_QUOTA_NAMES = tuple(field.name for field in Quota.DESCRIPTOR.fields)


class _Limit(click.ParamType[tuple[str, str]]):
    """A limit of the quota such as jobs_per_day=100."""

    name = "name=number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, _, number = str(value).partition("=")
        if name not in _QUOTA_NAMES or not re.fullmatch(r"-?[0-9]{1,18}", number):
            self.fail(f"must be NAME=NUMBER, NAME one of {', '.join(_QUOTA_NAMES)}", param, ctx)
        return name, number


class _KeyName(click.ParamType[str]):
    """The id of a key, as ``reelhaul keys list`` shows it, or ``me``."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        key_id = str(value).strip().removeprefix("apiKeys/")
        if key_id != "me" and not _UUID.fullmatch(key_id):
            self.fail(f"{key_id!r} is not the id of a key: `reelhaul keys list` shows them", param, ctx)
        return key_id


#: Options that keys and tenants have, with the fields that they set.
SITE_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("--site", "allowed_sites"),
        {"multiple": True, "help": "Site that jobs may be of, e.g. youtube.com; may be repeated."},
    ),
    (
        ("--deny-site", "denied_sites"),
        {"multiple": True, "help": "Site that jobs may not be of; may be repeated."},
    ),
]
LIMIT_OPTION: tuple[tuple[str, ...], dict[str, Any]] = (
    ("--limit", "limits"),
    {"multiple": True, "type": _Limit(), "help": "Limit of its quota, e.g. jobs_per_day=100; -1: none."},
)

#: Options of create and update, with the fields that they set.
_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--name", "display_name"), {"help": "Name for people."}),
    (("--expires", "ttl"), {"type": Seconds(), "help": "Time until it stops working, e.g. 90d."}),
    (
        ("--cidr", "allowed_cidrs"),
        {"multiple": True, "help": "Network that it may be used from; may be repeated."},
    ),
    *SITE_OPTIONS,
    (
        ("--grant", "grants"),
        {
            "multiple": True,
            "type": click.Choice([name.removeprefix(_GRANT_PREFIX).lower() for name in Grant.keys()[1:]]),
            "help": "Privilege beside its level; may be repeated.",
        },
    ),
    LIMIT_OPTION,
]


def _key_options(command: F) -> F:
    for names, attributes in reversed(_OPTIONS):
        command = click.option(*names, **attributes)(command)
    return command


@click.group(cls=Group)
def keys() -> None:
    """Manage API keys. Without a key, `reelhaul first-key` at the server creates one."""


@keys.command()
@click.option(
    "--level", type=click.Choice(_LEVELS), default="download", show_default=True, help="What the key may do."
)
@click.option("--tenant", default="", help="Id of its tenant. Default: the tenant of the calling key.")
@_key_options
@client_command
def create(level: str, tenant: str, connect: Connect, as_json: bool, **options: Any) -> None:
    """Create a key and print it; it is not shown again."""
    key = {"permission": _level_name(level), **_fields(options)}
    if tenant:
        key["tenant"] = f"tenants/{tenant.removeprefix('tenants/')}"
    with connect() as client:
        _print_new(client.keys.create(key), as_json)


@keys.command("list")
@click.option("--all", "show_deleted", is_flag=True, help="Deleted keys too.")
@click.option("--tenant", default="", help="Only keys of the tenant with this id.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number of keys."
)
@client_command
def list_(show_deleted: bool, tenant: str, limit: int, connect: Connect, as_json: bool) -> None:
    """List keys, newest first: id, beginning, level, state, tenant, last use, name."""
    where = f'tenant = "{re.sub("[^a-z0-9-]", "", tenant)}"' if tenant else ""
    with connect() as client:
        for key in islice(client.keys.list(where, show_deleted=show_deleted), limit):
            if as_json:
                emit_json(as_json_value(key))
            else:
                click.echo(_format_line(key))


@keys.command()
@click.argument("key", default="me", type=_KeyName())
@client_command
def show(key: str, connect: Connect, as_json: bool) -> None:
    """Show a key, by default the one that this command uses."""
    with connect() as client:
        _print_key(client.keys.get(key), as_json)


@keys.command()
@click.argument("key", type=_KeyName())
@click.option("--level", type=click.Choice(_LEVELS), help="What the key may do.")
@click.option("--never-expires", is_flag=True, help="Remove its expiry.")
@_key_options
@client_command
def update(
    key: str, level: str | None, never_expires: bool, connect: Connect, as_json: bool, **options: Any
) -> None:
    """Change a key. A list or quota that is given replaces the one that it has; --site '' empties it."""
    changes = _fields(options) | ({"permission": _level_name(level)} if level else {})
    names = [*changes, *(["expireTime"] if never_expires else [])]
    if not names:
        raise click.UsageError("nothing to change: give at least one option")
    if never_expires and "ttl" in changes:
        raise click.UsageError("--never-expires and --expires cannot be combined")
    with connect() as client:
        _print_key(client.keys.update(key, changes, names), as_json)


@keys.command()
@click.argument("key", type=_KeyName())
@client_command
def disable(key: str, connect: Connect, as_json: bool) -> None:
    """Let a key not work until it is enabled again."""
    with connect() as client:
        _print_key(client.keys.update(key, {"disabled": True}, ["disabled"]), as_json)


@keys.command()
@click.argument("key", type=_KeyName())
@client_command
def enable(key: str, connect: Connect, as_json: bool) -> None:
    """Let a disabled key work again."""
    with connect() as client:
        _print_key(client.keys.update(key, {}, ["disabled"]), as_json)


@keys.command()
@click.argument("key", type=_KeyName())
@client_command
def delete(key: str, connect: Connect, as_json: bool) -> None:
    """Delete a key. It stops working now, and can be undeleted for 30 days."""
    with connect() as client:
        _print_key(client.keys.delete(key), as_json)


@keys.command()
@click.argument("key", type=_KeyName())
@client_command
def undelete(key: str, connect: Connect, as_json: bool) -> None:
    """Restore a deleted key."""
    with connect() as client:
        _print_key(client.keys.undelete(key), as_json)


@keys.command()
@click.argument("key", type=_KeyName())
@click.option(
    "--grace",
    type=Seconds(),
    default="0s",
    help="How long the old one works beside it, e.g. 1h; at most 7d.",
)
@client_command
def rotate(key: str, grace: int, connect: Connect, as_json: bool) -> None:
    """Give a key a new string and print it; it is not shown again."""
    with connect() as client:
        rotated = client.keys.rotate(key, grace)
        _print_new(rotated, as_json)
        if not as_json:
            end = rotated.update_time.ToDatetime(UTC) + timedelta(seconds=grace)
            until = f"works until {end:%Y-%m-%d %H:%M:%S} UTC" if grace else "no longer works"
            click.echo(f"The old key {until}.", err=True)


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a key in JSON that *options* set."""
    key: dict[str, Any] = {}
    if options["display_name"] is not None:
        key["displayName"] = options["display_name"]
    if options["ttl"] is not None:
        key["ttl"] = f"{options['ttl']}s"
    for name, field in [
        ("allowed_cidrs", "allowedCidrs"),
        ("allowed_sites", "allowedSites"),
        ("denied_sites", "deniedSites"),
    ]:
        if options[name]:
            key[field] = [value for value in options[name] if value]
    if options["grants"]:
        key["grants"] = [_GRANT_PREFIX + name.upper() for name in options["grants"]]
    if options["limits"]:
        key["quota"] = quota_fields(options["limits"])
    return key


def quota_fields(limits: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a Quota in JSON with *limits*, by the names of its fields."""
    return {Quota.DESCRIPTOR.fields_by_name[name].json_name: value for name, value in limits}


def _level_name(level: str) -> str:
    return _LEVEL_PREFIX + level.upper().replace("-", "_")


def _format_level(key: ApiKey) -> str:
    return PermissionLevel.Name(key.permission).removeprefix(_LEVEL_PREFIX).lower().replace("_", "-")


def _format_line(key: ApiKey) -> str:
    """Return one line: in columns for people, tab-separated for programs."""
    used = _format_time(key, "last_use_time") or "never"
    key_id, tenant = key.name.removeprefix("apiKeys/"), key.tenant.removeprefix("tenants/")
    state, name = format_enum(ApiKey.State.Name(key.state)), printable(key.display_name)
    if not sys.stdout.isatty():
        return "\t".join([key_id, key.key_prefix, _format_level(key), state, tenant, used, name])
    return f"{key_id}  {key.key_prefix}…  {_format_level(key):11}  {state:8}  {tenant}  {used}  {name}"


def _print_new(key: ApiKey, as_json: bool) -> None:
    _print_key(key, as_json)
    if not key.key_string:
        text = "the response with the key was lost: `reelhaul keys rotate` creates another string"
        raise click.ClickException(text)
    if not as_json:
        click.echo("This is the only time that the key is shown.", err=True)


def _print_key(key: ApiKey, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(key))
        return
    values = {
        "key": key.key_string or f"{key.key_prefix}…",
        "id": key.name.removeprefix("apiKeys/"),
        "name": key.display_name,
        "level": _format_level(key),
        "tenant": key.tenant.removeprefix("tenants/"),
        "state": format_enum(ApiKey.State.Name(key.state)),
        "expires": _format_time(key, "expire_time"),
        "networks": " ".join(key.allowed_cidrs),
        "sites": " ".join([*key.allowed_sites, *(f"not {site}" for site in key.denied_sites)]),
        "grants": " ".join(Grant.Name(grant).removeprefix(_GRANT_PREFIX).lower() for grant in key.grants),
        "limits": " ".join(f"{field.name}={value}" for field, value in key.quota.ListFields()),
        "last use": _format_time(key, "last_use_time") or "never",
        "created": _format_time(key, "create_time"),
        "purged": _format_time(key, "purge_time"),
    }
    for name, value in values.items():
        if value:
            click.echo(printable(f"{name + ':':11}{value}"))


def _format_time(key: ApiKey, field: str) -> str:
    """Return the time in *field* in UTC; empty if it is unset."""
    if not key.HasField(field):  # type: ignore[arg-type]
        return ""
    time: datetime = getattr(key, field).ToDatetime(UTC)
    return f"{time:%Y-%m-%d %H:%M} UTC"
