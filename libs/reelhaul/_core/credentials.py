"""The credential of a client: given, or from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from reelhaul.api_keys import check_credential

#: Environment variable of the API key; with ``_FILE``, of a file that has it.
API_KEY_VARIABLE = "REELHAUL_API_KEY"
_FILE_VARIABLE = f"{API_KEY_VARIABLE}_FILE"


def resolve_api_key(api_key: str | None) -> str:
    """Return *api_key*, or that of the environment if it is None; empty for calls without a credential.

    Raises ValueError, whose text has nothing of it, if it is mistyped or its file cannot be read.
    """
    return check_credential(find_api_key(os.environ) if api_key is None else api_key)


def find_api_key(variables: Mapping[str, str | None]) -> str:
    """Return the API key that *variables* have, or the content of the file that they name; empty without one.

    Raises ValueError if the file cannot be read.
    """
    key, file = variables.get(API_KEY_VARIABLE) or "", variables.get(_FILE_VARIABLE)
    if file and not key:
        try:
            key = Path(file).read_text(errors="replace")
        except OSError as error:
            raise ValueError(f"{_FILE_VARIABLE}: {file}: {error.strerror}") from None
    return key.strip()
