"""Secret files: settings that are secrets, read from files that ``<NAME>_FILE`` names.

Docker and Kubernetes mount secrets as files. https://docs.docker.com/compose/how-tos/use-secrets/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

#: What the name of a setting gets for the file with its value.
SUFFIX = "_FILE"

_MAX_BYTES = 64 << 10


class SecretFileError(Exception):
    """A file of a secret cannot be used; the text has the name of the setting and never the value."""


class SecretFiles(PydanticBaseSettingsSource):
    """Reads secret settings from the files that *variables* name, the variables by lower-case name."""

    def __init__(
        self, settings_class: type[BaseSettings], prefix: str, variables: Mapping[str, str | None]
    ) -> None:
        super().__init__(settings_class)
        self._prefix, self._variables = prefix, variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the secret from its file, None without one. Raises SecretFileError."""
        if not is_secret(field):
            return None, field_name, False
        name = f"{self._prefix}{field_name}".upper()
        file = self._variables.get(f"{name}{SUFFIX}".lower())
        if not file:
            return None, field_name, False
        if self._variables.get(name.lower()):
            raise SecretFileError(f"{name} and {name}{SUFFIX} are both set: remove one of them")
        return _read(Path(file), f"{name}{SUFFIX}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that files have, by field."""
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value is not None}


def is_secret(field: FieldInfo) -> bool:
    """Return whether *field* is a secret: it is not shown, and is no path of a file itself."""
    return field.repr is False and field.annotation != Path | None


def _read(file: Path, variable: str) -> str:
    """Return the content of *file* without the line break at its end. Raises SecretFileError."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"{variable}: {file} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise SecretFileError(f"{variable}: {file} has more than {_MAX_BYTES:,} bytes")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SecretFileError(f"{variable}: {file} is not UTF-8") from None
    if not text:
        raise SecretFileError(f"{variable}: {file} is empty")
    return text
