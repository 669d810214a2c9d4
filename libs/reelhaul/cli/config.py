"""``reelhaul config``: profiles, the servers that a user works with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from reelhaul.api_keys import check_credential
from reelhaul.cli.commands import Group
from reelhaul.cli.options import check_server
from reelhaul.cli.output import print_table, print_values
from reelhaul.cli.profiles import (
    Profile,
    ProfileName,
    Profiles,
    config_file,
    delete_key,
    read_profiles,
    store_key,
    write_profiles,
)
from reelhaul.existing_files import ON_EXISTS


@click.group(cls=Group)
def config() -> None:
    """Keep servers and keys as named profiles."""


@config.command("list")
def list_() -> None:
    """List the profiles; the default one has a star."""
    profiles = read_profiles()
    rows = [
        ("*" if name == profiles.default else "-", name, profile.server, profile.key or "no key")
        for name, profile in profiles.by_name.items()
    ]
    print_table(("", "profile", "server", "key"), rows)


@config.command()
@click.argument("name", default="")
def show(name: str) -> None:
    """Show a profile, by default the one in use, and the file that it is in."""
    profiles = read_profiles()
    _print_profile(name or profiles.default, profiles.find(name))


def _print_profile(name: str, profile: Profile) -> None:
    print_values(
        {
            "profile": name,
            "server": profile.server,
            "key": profile.key and f"in the {profile.key}",
            "output": profile.output,
            "on exists": profile.on_exists,
            "file": str(config_file()),
        }
    )


@config.command("set")
@click.argument("name", type=ProfileName())
@click.option("--server", callback=lambda *values: values[2] and check_server(*values), help="The gateway.")
@click.option(
    "--api-key",
    is_flag=True,
    help="Ask for the API key, or read it from standard input, and store it: in the keyring, or in a file"
    " that only you can read.",
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder to save into.")
@click.option("--on-exists", type=click.Choice(ON_EXISTS), help="What to do with existing files.")
def set_(name: str, server: str | None, api_key: bool, output: Path | None, on_exists: str | None) -> None:
    """Create or change a profile. The first one becomes the default."""
    profiles = read_profiles()
    profile = profiles.by_name.get(name, Profile())
    if server and profile.key and server != profile.server and not api_key:
        # Otherwise the key would be sent to a server that it is not meant for.
        delete_key(name)
        profile = replace(profile, key="")
        click.echo("The key of the old server is deleted; --api-key stores another one.", err=True)
    changes = {"server": server, "output": output and str(output.absolute()), "on_exists": on_exists}
    profile = replace(profile, **{field: value for field, value in changes.items() if value})
    if not profile.server:
        raise click.UsageError("a new profile needs --server")
    if api_key:
        profile = replace(profile, key=store_key(name, _read_api_key()))
    write_profiles(Profiles({**profiles.by_name, name: profile}, profiles.default or name))
    _print_profile(name, profile)


@config.command()
@click.argument("name", type=ProfileName())
def use(name: str) -> None:
    """Make a profile the default."""
    profiles = read_profiles()
    profiles.find(name)
    write_profiles(replace(profiles, default=name))


@config.command()
@click.argument("name", type=ProfileName())
def delete(name: str) -> None:
    """Delete a profile and its key."""
    profiles = read_profiles()
    profiles.find(name)
    delete_key(name)
    rest = {each: profile for each, profile in profiles.by_name.items() if each != name}
    write_profiles(Profiles(rest, "" if profiles.default == name else profiles.default))


def _read_api_key() -> str:
    """Return the API key that the user types, unseen, or that standard input has."""
    if sys.stdin.isatty():
        text = click.prompt("API key", hide_input=True, err=True)
    else:
        text = sys.stdin.readline(1000)
    try:
        key = check_credential(str(text).strip())
    except ValueError as error:
        raise click.UsageError(f"{error}") from None
    if not key:
        raise click.UsageError("there is no key on standard input")
    return key
