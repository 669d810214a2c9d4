"""``reelhaul fetcher``: what an operator does where a fetcher is installed.

Each command imports what it needs only when it runs: the command line starts for all of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reelhaul_fetcher.disk.cookies import CookieFolder, StoredCookies

_KEY = "REELHAUL_FETCHER_COOKIES_KEY"
_OUR_TENANT = "local"


@click.group()
def fetcher() -> None:
    """Look after a fetcher: cookies, engine versions."""


@fetcher.group()
def cookies() -> None:
    """Cookies that jobs ask for by name, kept encrypted."""


@cookies.command()
def key() -> None:
    """Print a new key, for REELHAUL_FETCHER_COOKIES_KEY."""
    from cryptography.fernet import Fernet

    click.echo(Fernet.generate_key().decode())


@cookies.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--tenant", "tenants", multiple=True, help="Who may use them; may be repeated. Else: local.")
@click.option("--any-tenant", is_flag=True, help="Everyone may use them.")
def add(name: str, file: Path, tenants: tuple[str, ...], any_tenant: bool) -> None:
    """Keep the cookies of FILE (Netscape's form; - reads them from standard input) as NAME."""
    from reelhaul_fetcher.model.cookies import MAX_BYTES, domains, parse

    if any_tenant and tenants:
        raise click.UsageError("--any-tenant and --tenant exclude each other")
    with click.open_file(str(file), encoding="utf-8") as source:
        text = source.read(MAX_BYTES + 1)
    try:
        jar = _folder().add(name, text, () if any_tenant else tenants or (_OUR_TENANT,))
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from None
    click.echo(f"{name}: cookies for {', '.join(domains(parse(jar.text)))}")


@cookies.command("list")
def list_() -> None:
    """Show what is kept: for which sites and whom, until when, and whether sites take it."""
    for kept in _folder().list():
        click.echo("\t".join(_told(kept)))


@cookies.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget the cookies NAME."""
    if not _folder().remove(name):
        raise click.ClickException(f"there are no cookies called {name}")


def _folder() -> CookieFolder:
    from reelhaul_fetcher.disk.cookies import CookieFolder
    from reelhaul_fetcher.settings import Settings

    settings = Settings()
    if not settings.cookie_keys:
        raise click.ClickException(f"{_KEY} is not set: `reelhaul fetcher cookies key` makes one")
    try:
        return CookieFolder(settings.cookies_dir, settings.cookie_keys)
    except ValueError as error:
        raise click.ClickException(f"{_KEY}: {error}") from None


def _told(kept: StoredCookies) -> list[str]:
    from reelhaul_fetcher.model.cookies import domains, parse

    if kept.jar is None:
        return [kept.name, "cannot be opened with this key"]
    found = parse(kept.jar.text)
    ends = sorted(cookie.expires for cookie in found if cookie.expires)
    state = "expired" if ends and ends[-1] <= datetime.now(UTC) else "ok"
    if kept.refused:
        state = f"refused: {kept.refused}"
    until = f"until {ends[0]:%Y-%m-%d} to {ends[-1]:%Y-%m-%d}" if ends else "of a session"
    whose = ",".join(kept.jar.tenants) or "any tenant"
    return [kept.name, ",".join(domains(found)), whose, until, state]


@fetcher.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def version(as_json: bool) -> None:
    """Tell the engine's version, how old it is, and the oldest that this build runs with.

    Exits with 1 if it is below that.
    """
    import json
    from dataclasses import asdict

    from reelhaul_fetcher.ytdlp.version import engine_age

    found = engine_age()
    if as_json:
        click.echo(json.dumps(asdict(found) | {"state": found.state}))
    else:
        days = "of unknown age" if found.days is None else f"{found.days} days old"
        click.echo(f"{found.engine}, {days}, floor {found.floor or 'unknown'}: {found.state}")
    raise SystemExit(found.state == "below the floor")


@fetcher.command()
@click.argument("urls", metavar="URL…", nargs=-1, required=True)
@click.option("--engine", help="Another yt-dlp: a version, a folder that holds it, or a Python that has it.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each trial, a line each.")
def canary(urls: tuple[str, ...], engine: str | None, as_json: bool) -> None:
    """Probe each URL and fetch its beginning, with the present engine and with another one beside it.

    Exits with 1 if the other one is worse at any URL; without another, if the present one fails at any.
    """
    from reelhaul_fetcher.engine_trial import run_trial

    try:
        raise SystemExit(run_trial(urls, engine, as_json=as_json))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
