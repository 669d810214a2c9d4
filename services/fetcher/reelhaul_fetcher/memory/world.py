"""What lies around a fetch, in memory: storage, the guard, a translator."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import Stamp


class MemoryArtifacts:
    """Artifacts in a dict."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[bytes, Stamp]] = {}
        #: What was announced, and neither stored nor withdrawn.
        self.announced: set[Path] = set()

    def announce(self, product: Product, stamp: Stamp) -> None:
        """As ``ports.Artifacts.announce``."""
        self.announced.add(product.path)

    async def withdraw(self, folder: Path) -> None:
        """As ``ports.Artifacts.withdraw``."""
        self.announced -= {path for path in self.announced if path.parent == folder}

    async def store(self, product: Product, stamp: Stamp, told: Callable[[int], None]) -> ArtifactInfo:
        """As ``ports.Artifacts.store``."""
        info = ArtifactInfo()
        info.CopyFrom(product.info)
        info.name = f"artifacts/{uuid.uuid4()}"
        content = product.path.read_bytes()
        info.checksums.sha256 = hashlib.sha256(content).digest()
        self.announced.discard(product.path)
        self.stored[info.name] = content, stamp
        told(len(content))
        return info

    async def discard(self, names: Sequence[str]) -> None:
        """As ``ports.Artifacts.discard``."""
        for name in names:
            self.stored.pop(name, None)


class MemoryGuard:
    """Passes that lead nowhere."""

    def __init__(self) -> None:
        self.open_passes: set[str] = set()
        self.used = Usage()
        #: Bytes and seconds that each pass was opened for.
        self.budgets: list[tuple[int, float]] = []
        #: The egress of each pass that was opened.
        self.egresses: list[str] = []

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        """As ``ports.Guard.open``."""
        self.open_passes.add(name)
        self.budgets.append((byte_limit, seconds))
        self.egresses.append(egress)
        return f"http://{name}:secret@127.0.0.1:9"

    async def usage(self, name: str) -> Usage:
        """As ``ports.Guard.usage``."""
        return self.used

    async def close(self, name: str) -> Usage:
        """As ``ports.Guard.close``."""
        self.open_passes.discard(name)
        return self.used


class MemoryTranslator:
    """Translates by writing the language in front."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As ``ports.Translator.translate``."""
        return [f"[{target}] {text}" for text in texts]
