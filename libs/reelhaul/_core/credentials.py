"""The credential of a client: given, or from the environment."""

from __future__ import annotations

import os

from reelhaul.api_keys import check_credential

#: Environment variable of the API key.
API_KEY_VARIABLE = "REELHAUL_API_KEY"


def resolve_api_key(api_key: str | None) -> str:
    """Return *api_key*, or that of the environment if it is None; empty for calls without a credential.

    Raises ValueError, whose text has nothing of it, if it is mistyped.
    """
    return check_credential(os.environ.get(API_KEY_VARIABLE, "").strip() if api_key is None else api_key)
