"""Cookie folder: named cookies of the operator, encrypted on disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reelhaul_fetcher.model.cookies import NAME, CookieJar, cookies_unknown, parse, with_header
from reelhaul_runtime.private_files import open_private
from reelhaul_runtime.sealing import Sealer

log = logging.getLogger(__name__)

_ENCRYPTED_SUFFIX, _REFUSED_SUFFIX = ".cookies", ".refused"


@dataclass(frozen=True, slots=True)
class StoredCookies:
    """An entry of the folder; *jar* is None if none of the keys decrypts it."""

    name: str
    jar: CookieJar | None
    added: datetime | None = None
    #: The site's message when it refused them; empty if it has accepted them, or was not asked.
    refused: str = ""


class CookieFolder:
    """``ports.CookieStore`` in *folder*, one file per name. The first of *keys* encrypts, any decrypts."""

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self._folder = folder
        self._sealer = Sealer(keys)

    def get(self, name: str, tenant: str) -> CookieJar:
        stored = self._load(name) if NAME.fullmatch(name) else None
        if stored is None or stored.jar is None or not stored.jar.is_allowed_for(tenant):
            log.warning("cookies unknown to the tenant", extra={"cookies": name, "tenant": tenant})
            raise cookies_unknown(name)
        return stored.jar

    def record_result(self, name: str, refused: str) -> None:
        path = self._folder / f"{name}{_REFUSED_SUFFIX}"
        with suppress(OSError):
            if not refused:
                path.unlink(missing_ok=True)
            elif (self._folder / f"{name}{_ENCRYPTED_SUFFIX}").exists():
                log.warning("cookies refused", extra={"cookies": name, "cause": refused})
                with open(path, "w", opener=open_private) as file:
                    file.write(refused[:500])

    def add(self, name: str, text: str, tenants: Sequence[str]) -> CookieJar:
        """Store *text* (Netscape format) as *name*; it replaces the old one. Raises ValueError if invalid."""
        if not NAME.fullmatch(name):
            raise ValueError("a name consists of a-z, 0-9, _ and -")
        parse(text)
        jar = CookieJar(name, with_header(text), tuple(tenants))
        added = datetime.now(UTC).isoformat()
        content = {"name": name, "tenants": jar.tenants, "added": added, "text": jar.text}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{name}{_ENCRYPTED_SUFFIX}"
        temporary = path.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(self._sealer.seal(json.dumps(content).encode()))
        temporary.replace(path)
        self.record_result(name, "")
        return jar

    def remove(self, name: str) -> bool:
        """Delete the cookies *name*; return False if there are none."""
        if not NAME.fullmatch(name) or not (path := self._folder / f"{name}{_ENCRYPTED_SUFFIX}").exists():
            return False
        path.unlink()
        self.record_result(name, "")
        return True

    def list(self) -> list[StoredCookies]:
        """Return all entries by name."""
        paths = self._folder.glob(f"*{_ENCRYPTED_SUFFIX}")
        names = sorted(path.stem for path in paths if NAME.fullmatch(path.stem))
        return [stored for name in names if (stored := self._load(name))]

    def _load(self, name: str) -> StoredCookies | None:
        try:
            encrypted = (self._folder / f"{name}{_ENCRYPTED_SUFFIX}").read_bytes()
        except OSError:
            return None
        refused = ""
        with suppress(OSError):
            refused = (self._folder / f"{name}{_REFUSED_SUFFIX}").read_text()
        decrypted = self._sealer.unseal(encrypted)
        if decrypted is None:
            return StoredCookies(name, None, refused=refused)
        content: dict[str, Any] = json.loads(decrypted)
        # A renamed file would give one tenant the session of another.
        if content["name"] != name:
            return StoredCookies(name, None)
        jar = CookieJar(name, content["text"], tuple(content["tenants"]))
        return StoredCookies(name, jar, datetime.fromisoformat(content["added"]), refused)
