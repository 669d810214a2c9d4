"""Service: how the suite runs and migrates a service, found by entry point and never imported."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from reelhaul_runtime import logs, settings
from reelhaul_runtime.exit_codes import REFUSED
from reelhaul_runtime.setting_names import check_names, variable_names
from reelhaul_runtime.settings import SuiteSettings

if TYPE_CHECKING:
    from reelhaul_runtime.doctor.check import Check

_GROUP = "reelhaul.services"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a row of a database names: its key, where it is or belongs, and what it must contain."""

    key: str
    path: Path
    size: int
    sha256: str


class StoredFiles(Protocol):
    """The many files that the database of a service names. They are written once and never changed."""

    def keep(self) -> AbstractContextManager[None]:
        """Let the service delete none of them until the end of the block.

        Raises BlockingIOError if another process does the same.
        """

    def list_all(self, database: sqlite3.Connection) -> Iterator[StoredFile]:
        """Iterate over the files that *database*, a snapshot, names."""

    def find(self, database: sqlite3.Connection, key: str) -> StoredFile | None:
        """Return the file that *database* names *key*; None if there is none."""


def _do_nothing() -> None:
    pass


def _no_checks() -> Sequence[Check]:
    return ()


@dataclass(frozen=True, slots=True)
class ServiceData:
    """What a service keeps on this machine, for backups."""

    #: The URL of its database, its setting, and the package with the migrations; empty if it has none.
    database_url: str = ""
    database_setting: str = ""
    package: str = ""
    #: Small files, and folders of such, by the name that they have in a backup.
    private: Mapping[str, Path] = field(default_factory=dict)
    #: The many files that the database names, by the name of their folder in a backup.
    stored: Mapping[str, StoredFiles] = field(default_factory=dict)
    #: The setting by which it keeps such files where a backup cannot read them; empty if it does not.
    stored_elsewhere: str = ""
    #: Adapts the restored data, migrated to this build's schema, before the service first runs on it.
    after_restore: Callable[[], None] = _do_nothing


@dataclass(frozen=True, slots=True)
class Service:
    """What an entry point of the group ``reelhaul.services`` names."""

    name: str
    #: Runs the service with settings from the environment; it is ready to serve once entered.
    running: Callable[[], AbstractAsyncContextManager[None]]
    #: Migrates the service's database to this build's schema; None if it has no database.
    migrate: Callable[[], None] | None = None
    #: Returns how many processes are to share the service's address by its settings; None: it needs one.
    count_workers: Callable[[], int] | None = None
    #: Returns what the service keeps if the data folder is the given one; None if it keeps nothing.
    describe_data: Callable[[Path], ServiceData] | None = None
    #: Returns the checks of ``reelhaul doctor`` that are about this service, with settings from the
    #: environment. Raises ERRORS of ``settings``.
    checks: Callable[[], Sequence[Check]] = _no_checks


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
    check_names({name for each in settings_classes() for name in variable_names(each)})


def check_settings(command: Callable[[], int]) -> int:
    """Return the exit code of *command*; print a line for each unknown or wrong setting."""
    try:
        check_setting_names()
        return command()
    except settings.ERRORS as error:
        for line in settings.describe_errors(error):
            report_failure(line)
        return REFUSED


def report_failure(text: str) -> None:
    """Print why a server command ends to standard error, in the form of the log if that is JSON by setting.

    The settings may be what is wrong, therefore the variable alone decides.
    """
    if os.environ.get(f"{settings.PREFIX}LOG_FORMAT", "").lower() == "json":
        text = logs.to_json("reelhaul", logging.ERROR, __name__, text)
    else:
        text = f"reelhaul: {text}"
    click.echo(text, err=True)
