"""``reelhaul fetcher``: the operator's commands, on a machine with a fetcher installed.

Each command imports what it needs when it runs, so that the command line starts quickly.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reelhaul.cli.commands import Group

if TYPE_CHECKING:
    from reelhaul_fetcher.disk.cookies import CookieFolder, StoredCookies
    from reelhaul_fetcher.settings import Settings

_KEY = "REELHAUL_FETCHER_COOKIES_KEY"
_DEFAULT_TENANT = "local"


@click.group(cls=Group)
def fetcher() -> None:
    """Manage a fetcher: cookies and engine versions."""


@fetcher.group(cls=Group)
def cookies() -> None:
    """Manage the encrypted cookies that jobs use by name."""


@cookies.command()
def key() -> None:
    """Print a new key for REELHAUL_FETCHER_COOKIES_KEY."""
    from reelhaul_runtime.sealing import create_key

    click.echo(create_key())


@cookies.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--tenant", "tenants", multiple=True, help="Tenant that may use them; may be repeated. Default: local."
)
@click.option("--any-tenant", is_flag=True, help="Every tenant may use them.")
def add(name: str, file: Path, tenants: tuple[str, ...], any_tenant: bool) -> None:
    """Store the cookies of FILE (Netscape format; - reads standard input) as NAME."""
    from reelhaul_fetcher.model.cookies import MAX_BYTES, domains, parse

    if any_tenant and tenants:
        raise click.UsageError("--any-tenant and --tenant cannot be combined")
    with click.open_file(str(file), encoding="utf-8") as source:
        text = source.read(MAX_BYTES + 1)
    folder = _folder()
    try:
        jar = folder.add(name, text, () if any_tenant else tenants or (_DEFAULT_TENANT,))
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from None
    click.echo(f"{name}: cookies for {', '.join(domains(parse(jar.text)))}")


@cookies.command("list")
def list_() -> None:
    """List the cookies: name, sites, tenants, expiry, and whether sites accept them."""
    for stored in _folder().list():
        click.echo("\t".join(_row(stored)))


@cookies.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove the cookies NAME."""
    if not _folder().remove(name):
        raise click.ClickException(f"there are no cookies named {name}")


def _folder() -> CookieFolder:
    from reelhaul_fetcher.disk.cookies import CookieFolder

    settings = _read_settings()
    if not settings.cookie_keys:
        raise click.ClickException(f"{_KEY} is not set: `reelhaul fetcher cookies key` prints a new one")
    return CookieFolder(settings.cookies_dir, settings.cookie_keys)


def _read_settings() -> Settings:
    from reelhaul_fetcher.settings import Settings
    from reelhaul_runtime.service import check_setting_names
    from reelhaul_runtime.settings import ERRORS, describe_errors

    try:
        check_setting_names()
        return Settings()
    except ERRORS as error:
        raise click.UsageError("\n".join(describe_errors(error))) from None


def _row(stored: StoredCookies) -> list[str]:
    from reelhaul_fetcher.model.cookies import domains, parse

    if stored.jar is None:
        return [stored.name, "cannot be opened with this key"]
    parsed = parse(stored.jar.text)
    expiry = sorted(cookie.expires for cookie in parsed if cookie.expires)
    state = "expired" if expiry and expiry[-1] <= datetime.now(UTC) else "ok"
    if stored.refused:
        state = f"refused: {stored.refused}"
    until = f"until {expiry[0]:%Y-%m-%d} to {expiry[-1]:%Y-%m-%d}" if expiry else "session cookies"
    tenants = ",".join(stored.jar.tenants) or "any tenant"
    return [stored.name, ",".join(domains(parsed)), tenants, until, state]


@fetcher.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def version(as_json: bool) -> None:
    """Print the engine's version, its age, and the oldest version that this build supports.

    Exits with 1 if the version is older than that.
    """
    import json
    from dataclasses import asdict

    from reelhaul_fetcher.ytdlp.version import engine_age

    age = engine_age()
    if as_json:
        click.echo(json.dumps(asdict(age) | {"state": age.state}))
    else:
        click.echo(f"{age.engine}, {age.days_text}, floor {age.floor or 'unknown'}: {age.state}")
    raise SystemExit(age.state == "below the floor")


@fetcher.command()
@click.argument("urls", metavar="URL…", nargs=-1, required=True)
@click.option(
    "--engine",
    help="Another yt-dlp: a version, a folder that contains it, or a Python that has it installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per trial, one per line.")
def canary(urls: tuple[str, ...], engine: str | None, as_json: bool) -> None:
    """Probe each URL and download its beginning, with the installed engine and with another one.

    Exits with 1 if the other engine is worse at any URL; without one, if the installed one fails at any.
    """
    from reelhaul_fetcher.engine_trial import run_trial

    _read_settings()
    try:
        raise SystemExit(run_trial(urls, engine, as_json=as_json))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
