"""Service: how the suite runs and migrates a service, found by entry point and never imported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

import click

from reelhaul_runtime import settings
from reelhaul_runtime.settings import SuiteSettings

#: Exit code of a command whose settings are wrong.
REFUSED = 2

_GROUP = "reelhaul.services"


@dataclass(frozen=True, slots=True)
class Service:
    """What an entry point of the group ``reelhaul.services`` names."""

    name: str
    #: Runs the service with settings from the environment; it is ready to serve once entered.
    running: Callable[[], AbstractAsyncContextManager[None]]
    #: Migrates the service's database to this build's schema; None if it has no database.
    migrate: Callable[[], None] | None = None


def names() -> list[str]:
    """Return the names of all installed services, sorted."""
    return sorted(entry_points(group=_GROUP).names)


def load(name: str) -> Service:
    """Import and return the service called *name*. Raises KeyError if it is not installed."""
    service: Service = entry_points(group=_GROUP)[name].load()
    return service


def settings_classes() -> list[type[SuiteSettings]]:
    """Import and return the settings of the suite and of its services.

    Those of a service are ``Settings`` in the module ``settings`` beside its ``app``; they need no more
    than pydantic, so that every process knows the names of all settings.
    """
    modules = {point.module for point in entry_points(group=_GROUP)}
    packages = sorted(module.removesuffix(".app") for module in modules if module.endswith(".app"))
    return [SuiteSettings, *(import_module(f"{package}.settings").Settings for package in packages)]


def check_setting_names() -> None:
    """Raise InvalidSetting for variables REELHAUL_* and lines of .env that set nothing."""
    names = {name for each in settings_classes() for name in each.model_fields}
    settings.check_names({settings.PREFIX + name.upper() for name in names})


def check_settings(command: Callable[[], int]) -> int:
    """Return the exit code of *command*; print a line for each unknown or wrong setting."""
    try:
        check_setting_names()
        return command()
    except settings.ERRORS as error:
        for line in settings.describe_errors(error):
            click.echo(f"reelhaul: {line}", err=True)
        return REFUSED
