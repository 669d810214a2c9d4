"""Options and error output that all client commands share: ``--server``, ``--api-key``, ``--json`` …"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click
import httpx
from click.core import ParameterSource

from reelhaul._core.credentials import API_KEY_VARIABLE
from reelhaul.cli.commands import FAILED, USAGE
from reelhaul.cli.credentials import is_same_server, read_env_file, resolve_api_key
from reelhaul.cli.output import emit_json, printable
from reelhaul.cli.profiles import Profile, ProfileName, read_key, read_profiles
from reelhaul.existing_files import ON_EXISTS
from reelhaul.rest import CallFailed, Client, SaveFailed

P = ParamSpec("P")
R = TypeVar("R")
_SERVER_VARIABLE = "REELHAUL_GATEWAY_ADDRESS"
_TLS_VARIABLE = "REELHAUL_GATEWAY_TLS_CERTIFICATE"
_DEFAULT_SERVER = "http://127.0.0.1:8080"
_RETRY_SECONDS = 2.0
F = TypeVar("F", bound=Callable[..., object])

#: Returns a client of the gateway that the options name, with their key.
Connect = Callable[[], Client]

_ADVICE = {
    "SERVICE_UNAVAILABLE": "is the suite running? `reelhaul up` starts it; --server selects another one",
    "OVERLOADED": "try again in a moment",
    "RATE_LIMIT_EXCEEDED": "try again in a moment",
    "QUOTA_EXCEEDED": "wait until the quota renews, or ask for a larger one",
    "CREDENTIAL_MISSING": "REELHAUL_API_KEY or --api-key sets the key; at the server, REELHAUL_DATA_DIR names"
    " the folder in which `reelhaul up` has stored one",
    "CREDENTIAL_INVALID": "an administrator creates keys; at the server, `reelhaul first-key` does",
    "PERMISSION_INSUFFICIENT": "`reelhaul keys show` shows the level of this key; another one may be higher",
    "ADDRESS_FORBIDDEN": "the key may be used from its allowed networks only",
    "SITE_FORBIDDEN": "the key, its tenant or the server does not allow this site",
    "SITE_UNSUPPORTED": "use the page that shows the video, or the URL of the media file itself",
    "MEDIA_LOGIN_REQUIRED": "the site requires an account: configure cookies at the server",
    "COOKIES_UNKNOWN": "`reelhaul fetcher cookies list` at the server shows the cookies and their sites",
    "COOKIES_EXPIRED": "replace the cookies with `reelhaul fetcher cookies add` at the server",
    "COOKIES_REFUSED": "replace the cookies with `reelhaul fetcher cookies add` at the server",
    "MEDIA_IS_LIVE": "record it with --live record",
    "MEDIA_NOT_LIVE_YET": "wait for it with --live wait",
    "FORMAT_UNAVAILABLE": "`reelhaul probe` shows the available formats",
    "UPSTREAM_THROTTLED": "the site limits the request rate: try again later",
    "UPSTREAM_BLOCKED": "the site takes the server for a robot: try again later",
    "EXTRACTOR_FAILED": "a newer yt-dlp at the server may support the site better",
}


# By the collection of the resource that an error is about.
_RESOURCE_ADVICE = {
    "RESOURCE_NOT_FOUND": {
        "jobs": "`reelhaul jobs list` shows the existing jobs",
        "apiKeys": "`reelhaul keys list` shows the existing keys",
        "schedules": "`reelhaul schedules list` shows the existing schedules",
        "tenants": "`reelhaul tenants list` shows the existing tenants",
        "webhooks": "`reelhaul webhooks list` shows the existing webhooks",
    },
    "STATE_CONFLICT": {
        "jobs": "`reelhaul jobs show` shows the state of the job",
        "webhooks": "`reelhaul webhooks update --enable` lets events be sent",
    },
}


class CommandFailed(click.ClickException):
    """A failed call, printed as one or two lines on standard error, or with ``--json`` as one object."""

    exit_code = FAILED

    def __init__(self, failure: CallFailed, as_json: bool) -> None:
        super().__init__(str(failure))
        self._failure, self._as_json = failure, as_json

    def show(self, file: Any = None) -> None:
        failure = self._failure
        if self._as_json:
            emit_json(
                {
                    "type": "error",
                    "code": failure.code,
                    "reason": failure.reason,
                    "message": failure.message,
                    "fields": failure.fields,
                    "metadata": failure.metadata,
                }
            )
            return
        fields = [field for field in failure.fields if field and f"{field}:" not in failure.message]
        suffix = f" ({', '.join(fields)})" if fields else ""
        click.echo(printable(f"{failure}{suffix}"), err=True)
        if advice := failure.help_url or _find_advice(failure):
            click.echo(printable(f"  hint: {advice}"), err=True)


class RequestInvalid(CommandFailed):
    """A call that was rejected for its arguments."""

    exit_code = USAGE


def client_command(command: Callable[P, R]) -> Callable[..., R]:
    """Add the options --server, --api-key, --profile and --json to *command*, and print its errors.

    It gets ``connect``, which opens a client, and ``as_json``. The profile sets the options of
    ``save_options`` that are not given.
    """

    @click.option(
        "--server",
        envvar=_SERVER_VARIABLE,
        show_default=_DEFAULT_SERVER,
        show_envvar=True,
        callback=check_server,
        help="The gateway: a URL, or host:port. A .env file in the working directory may set it too.",
    )
    @click.option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        default="",
        show_envvar=True,
        help="The API key. The variable, .env or a profile hides it from other users of this machine."
        " Default: the key that `reelhaul up` has stored in its data folder.",
    )
    @click.option(
        "--profile",
        type=ProfileName(),
        help="Server and key of `reelhaul config`. Default: the default profile, if there is one.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print only JSON, one object per line.")
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs["as_json"])
        server, api_key, profile = (kwargs.pop(name) for name in ("server", "api_key", "profile"))
        target = _Target(str(server or ""), str(api_key), str(profile or ""))
        for name, value in target.preferences().items():
            if name in kwargs and kwargs[name] is None:
                kwargs[name] = value
        # A person waits: a server that is away is reported soon.
        kwargs["connect"] = functools.partial(
            Client, target.server, api_key=target.api_key, retry_timeout=_RETRY_SECONDS
        )
        try:
            return command(*args, **kwargs)
        except CallFailed as failure:
            kind = RequestInvalid if failure.code == "INVALID_ARGUMENT" else CommandFailed
            raise kind(failure, as_json) from failure
        except SaveFailed as error:
            raise CommandFailed(CallFailed("DATA_LOSS", str(error), reason="SAVE_FAILED"), as_json) from error

    return run


class _Target:
    """The server of a command and its key: given, or of the environment, of .env or of a profile.

    A profile that is named comes before the environment; the default one comes after .env. The key of a
    profile is sent to its own server only.
    """

    def __init__(self, server: str, api_key: str, profile: str) -> None:
        profiles = read_profiles()
        self._profile: Profile = profiles.find(profile)
        if profile and not _is_given("server"):
            server = ""
        configured = "" if profile else _configured_server()
        self.server = server or configured or self._profile.server or _DEFAULT_SERVER
        is_own = bool(self._profile.server) and is_same_server(self._profile.server, self.server)
        if profile and is_own and not _is_given("api_key"):
            api_key = read_key(profile, self._profile)
        name = profile or profiles.default
        find_key = functools.partial(read_key, name, self._profile) if is_own else str
        self.api_key = resolve_api_key(api_key, self.server, find_key)

    def preferences(self) -> dict[str, Any]:
        """Return the options of ``save_options`` that the profile sets, and their defaults."""
        output, on_exists = Path(self._profile.output), self._profile.on_exists or ON_EXISTS[0]
        if on_exists not in ON_EXISTS:
            raise click.UsageError(f"on_exists of the profile must be {', '.join(ON_EXISTS)}")
        return {"output": output, "on_exists": on_exists}


def _is_given(name: str) -> bool:
    """Return whether the option *name* is in the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _find_advice(failure: CallFailed) -> str:
    collection = failure.metadata.get("resource", "").partition("/")[0]
    advice = _ADVICE.get(failure.reason) or _RESOURCE_ADVICE.get(failure.reason, {}).get(collection)
    return advice or failure.remedy


def _configured_server() -> str:
    """Return the gateway of the .env file that `reelhaul up` reads here; empty without one."""
    configured = read_env_file()
    server = _check_url(configured.get(_SERVER_VARIABLE) or "")
    if configured.get(_TLS_VARIABLE):
        server = server or _DEFAULT_SERVER
        return f"https://{server.partition('://')[2] or server}"
    return server


def check_server(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return *value* if it is the URL or the host:port of a gateway, or None."""
    return value if value is None else _check_url(value)


def _check_url(value: str) -> str:
    """Return *value* if it is empty, or the URL or the host:port of a gateway."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        # A bare number is a port without its host.
        is_host = bool(host) and not host.isdigit() and " " not in host
        valid = (
            is_host and parts.scheme in ("http", "https") and parts.port != 0 and bool(httpx.URL(url).host)
        )
    except (ValueError, httpx.InvalidURL):
        valid = False
    if value and not valid:
        raise click.BadParameter(
            f"it must be host:port or a URL, for example 127.0.0.1:8080; {_SERVER_VARIABLE} sets it as well,"
            " in the environment or in .env"
        )
    return value


def save_options(command: F) -> F:
    """Add the options of saving files: --output, --on-exists."""
    on_exists = click.option(
        "--on-exists",
        type=click.Choice(ON_EXISTS),
        show_default=ON_EXISTS[0],
        help="What to do if another file has the name: number the new files, skip them, or replace the old"
        " ones. A file with the same content is kept in any case.",
    )
    output = click.option(
        "-o",
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        show_default="the working directory",
        help="Folder to save into.",
    )
    return output(on_exists(command))
