"""Download of fragments by yt-dlp into one file, continued safely after an interruption.

yt-dlp appends each fragment to ``<file>.part``, stores fragments that arrive ahead in
``<file>.part-Frag<n>``, and continues such files unchecked. Therefore a record states up to which fragment of
which list the part file is complete. The last fragment is received again and compared; files that the record
does not cover are deleted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from yt_dlp.downloader.fragment import FragmentFD

from reelhaul_fetcher.model.http_values import parse_validator
from reelhaul_fetcher.ytdlp.download.received_folder import (
    read_record,
    record_path,
    remove_files,
    write_record,
)
from reelhaul_fetcher.ytdlp.download.safe_resume import FileVersion
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info

_FRAGMENT_FILE = re.compile(r"\.part-Frag([0-9]{1,9})(\.part)?", re.ASCII)


class FragmentsChanged(Exception):
    """A fragment differs from the one that an earlier attempt received."""


class ResumableFragmentDownloader(FragmentFD):  # type: ignore[misc,unused-ignore]
    """Receives fragments in parallel as yt-dlp does; calls *on_resumed* with the bytes received before."""

    def __init__(self, downloader: Downloader, on_resumed: Callable[[int], None]) -> None:
        super().__init__(downloader, {**downloader.params, "_no_ytdl_file": True})
        self._downloader, self._on_resumed = downloader, on_resumed
        self._path = Path()
        self._list_digest = ""
        #: Fragments appended, and their bytes.
        self._count = self._size = 0
        #: SHA-256 of the next fragment as an earlier attempt received it; empty if it did not.
        self._expected = ""
        self._is_comparing = False
        for hook in downloader.params["progress_hooks"]:
            self.add_progress_hook(hook)

    def download(self, filename: str, info_dict: Info, subtitle: bool = False) -> Any:
        """Download as yt-dlp does, but compare the end of a complete file first."""
        if (path := Path(filename)).exists():
            path.rename(_part(path))
        return super().download(filename, info_dict, subtitle)

    def receive(self, path: Path, fragments: list[Info], info: Info, context: Info, **options: Any) -> bool:
        """Receive *fragments* to *path*, or those that are missing; return whether that succeeded.

        *context* is yt-dlp's, *options* are those of ``download_and_append_fragments``. Raises
        FragmentsChanged.
        """
        self._path, self._list_digest = path, _digest_list(fragments)
        self._restore(fragments)
        self._prepare_frag_download(context)
        # For yt-dlp's progress only.
        context["fragment_index"] = self._count
        self._start_frag_download(context, info)
        context["dl"].add_progress_hook(self._on_fragment_bytes)
        missing = fragments[self._count :]
        try:
            if self._expected:
                self._is_comparing = True
                if not self.download_and_append_fragments(context, missing[:1], info, **options):
                    return False
                self._is_comparing, missing = False, missing[1:]
            return bool(self.download_and_append_fragments(context, missing, info, **options))
        finally:
            context["dest_stream"].close()

    def restore_state(self) -> bool:
        """Read further state of the part file; return False if it cannot be continued."""
        return True

    def _append_fragment(self, ctx: Info, frag_content: bytes) -> None:
        digest = hashlib.sha256(frag_content).hexdigest()
        if self._expected and digest != self._expected:
            raise FragmentsChanged
        self._expected = ""
        super()._append_fragment(ctx, frag_content)
        start, self._size, self._count = self._size, self._size + len(frag_content), self._count + 1
        record_path(Path(f"{_part(self._path)}-Frag{self._count}.part")).unlink(missing_ok=True)
        self._record(start, digest)

    def _finish_frag_download(self, ctx: Info, info_dict: Info) -> bool:
        return self._is_comparing or bool(super()._finish_frag_download(ctx, info_dict))

    def _restore(self, fragments: list[Info]) -> None:
        """Reduce the files to the fragments that are certainly received, without the last one."""
        part, record = _part(self._path), read_record(self._path)
        try:
            count, start, size = (int(record[name]) for name in ("count", "start", "size"))
            is_valid = record["fragments"] == self._list_digest and 0 <= count <= len(fragments)
            if count:
                is_valid = is_valid and _digest_file(part, start, size) == record["sha256"]
                is_valid = is_valid and self.restore_state()
        except (KeyError, TypeError, ValueError, OSError):
            is_valid = False
        if not is_valid:
            remove_files(self._path)
            # Some may be received in part before the first is complete.
            self._record(start=0, digest="")
        elif count:
            with part.open("r+b") as file:
                file.truncate(start)
            self._count, self._size, self._expected = count - 1, start, record["sha256"]
            self._on_resumed(start + self._restore_ahead(fragments))
        else:
            part.unlink(missing_ok=True)
            self._on_resumed(self._restore_ahead(fragments))

    def _restore_ahead(self, fragments: list[Info]) -> int:
        """Keep fragments received ahead, also incomplete ones, and delete others; return their bytes."""
        kept, prefix = 0, f"{self._path.name}.part-Frag"
        entries = [entry for entry in self._path.parent.iterdir() if entry.name.startswith(prefix)]
        for entry in entries:
            if entry.suffix == ".state":
                continue
            match = _FRAGMENT_FILE.fullmatch(entry.name.removeprefix(self._path.name))
            number = int(match[1]) if match else 0
            is_part = entry.suffix == ".part"
            # A complete one is valid if the comparison of the last fragment appended succeeds.
            is_kept = self._count + bool(self._expected) < number <= len(fragments) and (
                self._can_continue(entry, fragments[number - 1]) if is_part else bool(self._expected)
            )
            if is_kept:
                kept += entry.stat().st_size
            else:
                entry.unlink()
                record_path(entry).unlink(missing_ok=True)
        return kept

    def _can_continue(self, part: Path, fragment: Info) -> bool:
        """Return whether the rest of *fragment* can be requested for the version recorded."""
        record = read_record(part)
        try:
            tags = (parse_validator(record[name]) for name in ("etag", "last_modified"))
            version = FileVersion(int(record["total"]), *tags)
        except (KeyError, TypeError, ValueError):
            return False
        # A request for the bytes after the last one would be refused.
        is_short = part.stat().st_size < (version.total or 0)
        if fragment.get("byte_range") or not version.validator or not is_short:
            return False
        self._downloader.remember_version(fragment["url"], version)
        return True

    def _record(self, start: int, digest: str) -> None:
        """Record the fragments appended; the last one begins at *start* and has *digest*."""
        record = {"fragments": self._list_digest, "count": self._count, "start": start, "sha256": digest}
        write_record(self._path, {**record, "size": self._size})

    def _on_fragment_bytes(self, status: Info) -> None:
        """Record the version of a fragment when its first bytes arrive."""
        part = Path(str(status.get("tmpfilename") or ""))
        if status["status"] != "downloading" or not part.name.endswith(".part") or record_path(part).exists():
            return
        url = (status.get("fragment_info_dict") or {}).get("url")
        if url and (version := self._downloader.known_version(url)) is not None and version.validator:
            write_record(part, asdict(version))


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _digest_list(fragments: list[Info]) -> str:
    """Return a SHA-256 that identifies *fragments* without hosts and queries, which may change."""
    listed = []
    for fragment in fragments:
        key = fragment.get("decrypt_info") or {}
        encryption = [key.get("METHOD"), str(key.get("IV")), urlsplit(str(key.get("URI") or "")).path]
        place = [urlsplit(str(fragment["url"])).path, fragment.get("byte_range")]
        order = [fragment.get(name) for name in ("media_sequence", "is_init", "restarts")]
        listed.append([*place, *order, *encryption])
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _digest_file(path: Path, start: int, stop: int) -> str:
    """Return the SHA-256 of the bytes from *start* to *stop*. Raises OSError; ValueError if too few."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(stop - start)
    if len(content) != stop - start:
        raise ValueError("the file is too short")
    return hashlib.sha256(content).hexdigest()
