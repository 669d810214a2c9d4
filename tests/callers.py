"""Callers of several tenants and levels, for services that run without authentication."""

from __future__ import annotations

import pytest

from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.auth.peers import Metadata, Peer
from reelhaul_runtime.identity import Caller, NoAuthentication

#: Metadata key of the number of a caller that ``Callers.metadata`` registered.
_KEY = "x-test-caller"


class Callers:
    """Calls with the metadata of a caller are served as that caller's; all others as before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._callers = list[Caller]()
        identify_others = NoAuthentication.identify

        async def identify(authenticator: NoAuthentication, metadata: Metadata, peer: Peer) -> Caller:
            if _KEY in metadata:
                return self._callers[int(metadata[_KEY])]
            return await identify_others(authenticator, metadata, peer)

        monkeypatch.setattr(NoAuthentication, "identify", identify)

    def metadata(self, caller: Caller) -> tuple[tuple[str, str], ...]:
        """Return the metadata of calls of *caller*."""
        self._callers.append(caller)
        return ((_KEY, str(len(self._callers) - 1)),)

    def of(self, tenant: str, level: str = "DOWNLOAD") -> tuple[tuple[str, str], ...]:
        """Return the metadata of calls of a key of *tenant* with the *level* of that name."""
        return self.metadata(
            Caller(tenant, PermissionLevel.Value(f"PERMISSION_LEVEL_{level}"), principal="k")
        )
