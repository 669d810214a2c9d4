"""Setting names: which variables and lines of .env are settings, and which are mistakes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator

from dotenv.parser import parse_stream
from pydantic_settings import BaseSettings

from reelhaul_runtime.secret_files import SUFFIX, is_secret
from reelhaul_runtime.settings import ENV_FILE, PREFIX, InvalidSetting


def variable_names(settings: type[BaseSettings]) -> Iterator[str]:
    """Yield the variables that *settings* reads: one for each field, and for each secret one of its file."""
    for name, field in settings.model_fields.items():
        yield PREFIX + name.upper()
        if is_secret(field):
            yield PREFIX + name.upper() + SUFFIX


def check_names(known: Collection[str]) -> None:
    """Raise InvalidSetting for variables REELHAUL_* and lines of .env that set none of *known*."""
    problems = [
        _describe_unknown(name, known)
        for name in os.environ
        if name.upper().startswith(PREFIX) and name.upper() not in known
    ]
    if problems := [*problems, *_check_env_file(known)]:
        raise InvalidSetting("\n".join(problems))


def _check_env_file(known: Collection[str]) -> Iterator[str]:
    """Yield a line for each line of .env that is about us and sets none of *known*."""
    try:
        with open(ENV_FILE, encoding="utf-8") as file:
            bindings = list(parse_stream(file))
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        yield f"{ENV_FILE} cannot be read: {error}"
        return
    for binding in bindings:
        name, place = (binding.key or "").upper(), f"{ENV_FILE}:{binding.original.line}: "
        if name.startswith(PREFIX) and name not in known:
            yield place + _describe_unknown(name, known)
        elif binding.error and PREFIX in binding.original.string.upper():
            yield f"{place}this line is not NAME=value"
        elif name.startswith(PREFIX) and binding.value is None:
            yield f"{place}{name} has no value: write {name}=value"


def _describe_unknown(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name.upper(), known, 1)
    advice = f"did you mean {nearest[0]}?" if nearest else ".env.example lists all settings"
    return f"{name} is not a setting: {advice}"
