"""The first key: a FULL_ACCESS key that is created without a caller, of the tenant of the operator."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from reelhaul import api_keys
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.api_key import ApiKey, KeyString
from reelhaul_jobs.ports.api_keys import ApiKeyStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_runtime.identity import LOCAL_TENANT
from reelhaul_runtime.private_files import open_private

log = logging.getLogger(__name__)


async def create_first_key(store: ApiKeyStore, file: Path, now: Clock) -> None:
    """Create a FULL_ACCESS key unless one works, and leave its string in *file*, for its owner only.

    The file is written before the key is stored: a crash in between leaves a string that the next start
    uses. A file that is there is kept otherwise. Raises OSError if it cannot be written.
    """
    present = _read(file)
    usable = present if present and await store.find(api_keys.hash_key_string(present)) is None else ""
    if usable:
        string = KeyString(usable)
    elif await store.has_full_access(now()):
        return
    else:
        string = KeyString()
        write_key_file(file, string)
    if await store.add_first(full_access_key(string, "first key", now), now()):
        log.warning("no FULL_ACCESS key worked: created the first one", extra={"file": str(file)})


def full_access_key(string: KeyString, display_name: str, now: Clock) -> ApiKey:
    """Return a new FULL_ACCESS key of the operator's tenant with this *string*."""
    time = now()
    return ApiKey(
        id=ids.new_id(time),
        tenant=LOCAL_TENANT,
        display_name=display_name,
        permission=PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS,
        hash=string.hash,
        key_prefix=string.prefix,
        create_time=time,
        update_time=time,
    )


def write_key_file(file: Path, string: KeyString) -> None:
    """Replace *file* by one with *string*, atomically and with mode 0600. Raises OSError."""
    new = file.with_name(file.name + ".new")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(new, "w", opener=open_private) as output:
        output.write(string.text + "\n")
        output.flush()
        os.fsync(output.fileno())
    new.replace(file)


def _read(file: Path) -> str:
    """Return the key string in *file*; empty if it has none."""
    try:
        text = file.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
    return text if api_keys.is_well_formed(text) else ""
