"""Named cookies in a folder, encrypted: what the operator puts there, and attempts read."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelhaul_fetcher.model.cookies import NAME, CookieJar, cookies_unknown, parse, with_header

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

log = logging.getLogger(__name__)

_SEALED, _REFUSED = ".cookies", ".refused"


@dataclass(frozen=True, slots=True)
class StoredCookies:
    """What is told of kept cookies; *jar* None where no key of ours opens them."""

    name: str
    jar: CookieJar | None
    added: datetime | None = None
    #: What the site said when it refused them; empty where it takes them, as far as is known.
    refused: str = ""


class CookieFolder:
    """Cookies in *place*, a file for each name, which the first of *keys* seals and any of them opens."""

    def __init__(self, place: Path, keys: Sequence[str]) -> None:
        self._place = place
        self._box = _box(keys)

    def get(self, name: str, tenant: str) -> CookieJar:
        """As ``ports.Cookies.jar``."""
        kept = self._kept(name) if NAME.fullmatch(name) else None
        if kept is None or kept.jar is None or not kept.jar.is_allowed_for(tenant):
            log.warning("cookies were asked for in vain", extra={"cookies": name, "tenant": tenant})
            raise cookies_unknown(name)
        return kept.jar

    def record_result(self, name: str, refused: str) -> None:
        """As ``ports.Cookies.noted``."""
        path = self._place / f"{name}{_REFUSED}"
        with suppress(OSError):
            if not refused:
                path.unlink(missing_ok=True)
            elif (self._place / f"{name}{_SEALED}").exists():
                log.warning("cookies refused", extra={"cookies": name, "why": refused})
                path.write_text(refused[:500])

    def add(self, name: str, text: str, tenants: Sequence[str]) -> CookieJar:
        """Keep *text* as *name*, in the place of what was there. Raises ValueError where it is none."""
        if not NAME.fullmatch(name):
            raise ValueError("a name is made of a-z, 0-9, _ and -")
        parse(text)
        jar = CookieJar(name, with_header(text), tuple(tenants))
        added = datetime.now(UTC).isoformat()
        told = {"name": name, "tenants": jar.tenants, "added": added, "text": jar.text}
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._place / f"{name}{_SEALED}"
        fresh = path.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(self._box.encrypt(json.dumps(told).encode()))
        fresh.replace(path)
        self.record_result(name, "")
        return jar

    def remove(self, name: str) -> bool:
        """Forget *name*; False where there is none."""
        if not NAME.fullmatch(name) or not (path := self._place / f"{name}{_SEALED}").exists():
            return False
        path.unlink()
        self.record_result(name, "")
        return True

    def list(self) -> list[StoredCookies]:
        """All that there are, by name."""
        names = sorted(path.stem for path in self._place.glob(f"*{_SEALED}") if NAME.fullmatch(path.stem))
        return [kept for name in names if (kept := self._kept(name))]

    def _kept(self, name: str) -> StoredCookies | None:
        from cryptography.fernet import InvalidToken

        try:
            sealed = (self._place / f"{name}{_SEALED}").read_bytes()
        except OSError:
            return None
        refused = ""
        with suppress(OSError):
            refused = (self._place / f"{name}{_REFUSED}").read_text()
        try:
            told: dict[str, Any] = json.loads(self._box.decrypt(sealed))
        except InvalidToken:
            return StoredCookies(name, None, refused=refused)
        # A file that was renamed would give one tenant another's session.
        if told["name"] != name:
            return StoredCookies(name, None)
        jar = CookieJar(name, told["text"], tuple(told["tenants"]))
        return StoredCookies(name, jar, datetime.fromisoformat(told["added"]), refused)


def _box(keys: Sequence[str]) -> MultiFernet:
    """Raises ValueError, without the key, where one is none."""
    from cryptography.fernet import Fernet, MultiFernet

    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise ValueError("a key is 32 bytes in URL-safe base64") from None
