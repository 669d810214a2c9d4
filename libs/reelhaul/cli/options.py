"""What the client commands have in common: the server, ``--json``, and how failures are told."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click
from google.protobuf import json_format
from google.protobuf.message import Message

from reelhaul.cli.commands import FAILED, USAGE
from reelhaul.cli.output import printable
from reelhaul.rest import CallFailed, SaveFailed

P = ParamSpec("P")
R = TypeVar("R")

_ADVICE = {
    "SERVICE_UNAVAILABLE": "is the suite running? `reelhaul up` starts it; --server names another",
    "OVERLOADED": "try again in a moment",
    "RATE_LIMIT_EXCEEDED": "try again in a moment",
    "QUOTA_EXCEEDED": "wait for the quota to renew, or ask for a larger one",
    "CREDENTIAL_MISSING": "this server wants an API key",
    "RESOURCE_NOT_FOUND": "`reelhaul jobs list` shows the jobs there are",
    "STATE_CONFLICT": "`reelhaul jobs get` shows how the job stands",
    "SITE_UNSUPPORTED": "give the page that shows the video, or the address of the media file itself",
    "MEDIA_LOGIN_REQUIRED": "the site wants an account: cookies must be configured at the server",
    "COOKIES_UNKNOWN": "`reelhaul fetcher cookies list` at the server shows which there are, and for whom",
    "COOKIES_EXPIRED": "fresh ones are put in place by `reelhaul fetcher cookies add` at the server",
    "COOKIES_REFUSED": "fresh ones are put in place by `reelhaul fetcher cookies add` at the server",
    "MEDIA_IS_LIVE": "record it with --live record",
    "MEDIA_NOT_LIVE_YET": "wait for it with --live wait",
    "FORMAT_UNAVAILABLE": "`reelhaul probe` shows what is offered",
    "UPSTREAM_THROTTLED": "the site asks for patience: try again later",
    "UPSTREAM_BLOCKED": "the site takes the server for a robot: try again later",
    "EXTRACTOR_FAILED": "a newer yt-dlp at the server may know the site better",
}


class Failed(click.ClickException):
    """A failure told in one or two lines on standard error, or as one JSON object with ``--json``."""

    exit_code = FAILED

    def __init__(self, failure: CallFailed, as_json: bool) -> None:
        super().__init__(str(failure))
        self._failure, self._as_json = failure, as_json

    def show(self, file: Any = None) -> None:
        """Print it."""
        failure = self._failure
        if self._as_json:
            emit_json(
                {
                    "type": "error",
                    "code": failure.code,
                    "reason": failure.reason,
                    "message": failure.text,
                    "fields": dict(failure.fields),
                    "metadata": dict(failure.metadata),
                }
            )
            return
        named = [field for field in failure.fields if field and f"{field}:" not in failure.text]
        where = f" ({', '.join(named)})" if named else ""
        click.echo(printable(f"{failure.reason or failure.code}: {failure.text}{where}"), err=True)
        if advice := failure.help_url or _ADVICE.get(failure.reason, ""):
            click.echo(printable(f"  what to do: {advice}"), err=True)


class Refused(Failed):
    """A call that was refused for how it was made."""

    exit_code = USAGE


def client_command(command: Callable[P, R]) -> Callable[..., R]:
    """Give *command* the options --server and --json, and tell its failures in our way."""

    @click.option(
        "--server",
        envvar="REELHAUL_GATEWAY_ADDRESS",
        default="http://127.0.0.1:8080",
        show_default=True,
        help="The gateway: a URL, or host:port.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line, and nothing else.")
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs["as_json"])
        try:
            return command(*args, **kwargs)
        except CallFailed as failure:
            kind = Refused if failure.code == "INVALID_ARGUMENT" else Failed
            raise kind(failure, as_json) from failure
        except SaveFailed as error:
            raise Failed(CallFailed("DATA_LOSS", "SAVE_FAILED", str(error)), as_json) from error

    return run


def emit_json(value: object) -> None:
    """Print *value* on a line of its own, seen at once by whoever reads the pipe."""
    click.echo(json.dumps(value, ensure_ascii=False))


def as_json_value(message: Message) -> Any:
    """*message* as the server writes it: whole numbers without a fraction."""
    return _whole(json_format.MessageToDict(message))


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
