"""``reelhaul serve`` with a door that believes each caller which tenant it is.

Run by its path: ``python -P tests/chaos/doors.py serve jobs``. Without keys all callers are one tenant,
and the crash test needs several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

#: Metadata key of the tenant that a caller says it is.
TENANT_KEY = "x-chaos-tenant"


def main() -> None:
    """Serve as the command line says."""
    from reelhaul_jobs import app
    from reelhaul_runtime.__main__ import main as runtime
    from reelhaul_runtime.identity import Caller, NoAuthentication

    class BelievingDoor(NoAuthentication):
        async def identify(self, metadata: Mapping[str, str | bytes]) -> Caller:
            who = await super().identify(metadata)
            return replace(who, tenant=str(metadata.get(TENANT_KEY, who.tenant)))

    app.NoAuthentication = BelievingDoor  # type: ignore[misc]
    runtime(prog_name="reelhaul")


if __name__ == "__main__":
    main()
