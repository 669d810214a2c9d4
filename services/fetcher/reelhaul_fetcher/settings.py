"""Settings of the fetcher, from ``REELHAUL_*``."""

from __future__ import annotations

import os
import re
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from reelhaul_fetcher.guard.dialer import Upstream
from reelhaul_fetcher.model.disk_limits import RESUME_FACTOR, DiskThresholds
from reelhaul_fetcher.model.egresses import DIRECT, egress_name
from reelhaul_fetcher.model.engine_options import SPONSORBLOCK_URL, EngineOptions
from reelhaul_runtime.sealing import check_keys, parse_keys
from reelhaul_runtime.settings import SuiteSettings

_URL = r"^(https?://[^\s/@]+(/\S*)?)?$"
# Name of the direct egress, in a list with proxies.
_DIRECT = "direct"
_PROXIES = "REELHAUL_FETCHER_UPSTREAM_PROXY and REELHAUL_FETCHER_UPSTREAM_PROXIES"
_BROWSER = re.compile(r"(chrome|edge|firefox|safari|tor)(-[0-9.]{1,8})?(:[a-z]{1,10}(-[0-9.]{1,8})?)?")
_CLIENT = re.compile(r"-?[a-z_]{1,32}")


class Settings(SuiteSettings):
    """The suite's settings and the fetcher's own."""

    #: Concurrent downloads.
    fetcher_slots: int = Field(default=2, ge=1, le=256)
    #: Direct fetches of one tenant at a time; 0: one fewer than there are slots, but one at least.
    fetcher_direct_fetches_per_tenant: int = Field(default=0, ge=0, le=256)
    #: Most connections of one download; more than one is opened only if one is slow.
    fetcher_connections: int = Field(default=8, ge=1, le=32)
    #: Concurrent recordings of live streams, beside the slots.
    fetcher_recordings: int = Field(default=4, ge=0, le=256)
    #: Pool that this fetcher takes work from.
    fetcher_pool: str = Field(default="default", pattern=r"^[a-z0-9-]{1,32}$")
    #: Proxy behind the guard, http://[user:password@]host:port; empty means a direct connection.
    fetcher_upstream_proxy: str = Field(default="", repr=False)
    #: More proxies, comma separated: each attempt uses one. ``direct`` is a direct connection.
    fetcher_upstream_proxies: Annotated[tuple[str, ...], NoDecode] = Field(default=(), repr=False)
    #: Bytes that each egress may carry per day (UTC); 0 means no limit.
    fetcher_egress_daily_bytes: int = Field(default=0, ge=0)
    #: PEM file of certificates to trust in addition to the system's.
    fetcher_ca_file: Path | None = None
    #: Folder that storage may take finished files over from; unset means the folder of the work directories.
    storage_adopt_dir: Path | None = None
    #: Bytes that all work directories together may take; 0 means what the disk has.
    fetcher_disk_quota_bytes: int = Field(default=0, ge=0)
    #: Free bytes below which no work is taken.
    fetcher_disk_pause_bytes: int = Field(default=1 << 30, ge=0)
    #: Free bytes that running downloads leave: if they cannot, the newest are requeued.
    fetcher_disk_reserve_bytes: int = Field(default=256 << 20, ge=0)
    #: Bytes of interrupted downloads that are kept for their next attempts, at most; 0 keeps none.
    fetcher_kept_bytes: int = Field(default=100 << 30, ge=0)
    #: Longest play time of a download in seconds, if its job sets none.
    fetcher_max_duration_seconds: int = 12 * 3600
    #: Seconds with next to nothing received after which an attempt fails.
    fetcher_stall_seconds: float = Field(default=60.0, gt=0)
    #: Seconds within which the metadata of the media must be extracted.
    fetcher_extraction_seconds: float = Field(default=300.0, gt=0)
    #: Bytes per second that a download must reach on average in each five minutes; 0: none.
    fetcher_min_bytes_per_second: int = Field(default=8192, ge=0)
    #: CPU seconds of one fetch, including ffmpeg.
    fetcher_cpu_seconds: int = Field(default=4 * 3600, ge=10)
    #: Bytes of memory of each process of a fetch.
    fetcher_memory_bytes: int = Field(default=4 << 30, ge=256 << 20)

    #: Subtitle translator with LibreTranslate's HTTP API; empty means none.
    fetcher_translator_url: str = Field(default="", pattern=_URL)
    #: Its API key; empty means none.
    fetcher_translator_key: str = Field(default="", repr=False)
    #: SponsorBlock's service; requests go through the guard.
    fetcher_sponsorblock_url: str = Field(default=SPONSORBLOCK_URL, pattern=_URL)
    #: YouTube player clients in order of preference, comma separated; empty means yt-dlp's default.
    fetcher_player_clients: Annotated[tuple[str, ...], NoDecode] = ()
    #: Provider of proof-of-origin tokens, for bgutil's yt-dlp plugin.
    fetcher_po_token_url: str = Field(default="", pattern=_URL)
    #: Path of the deno that runs players' JavaScript; unset means the one of the deno package.
    fetcher_js_runtime: Path | None = None
    #: Browsers to impersonate by site, e.g. {"tiktok.com": "chrome"}; requires curl_cffi.
    fetcher_impersonate: dict[str, str] = Field(default_factory=dict)
    #: Whether the engine runs in a network namespace that contains only the guard's listener.
    fetcher_network_namespace: Literal["off", "auto", "on"] = "off"
    #: Cookies in the Netscape format, a secret; each fetch gets its own copy. Unset means none.
    fetcher_cookies_file: Path | None = Field(default=None, repr=False)
    #: Keys of the named cookies, comma separated: the first encrypts, any decrypts. Empty means none.
    fetcher_cookies_key: str = Field(default="", repr=False)
    #: Folder of the encrypted named cookies; unset means ``cookies`` in the data folder.
    fetcher_cookies_dir: Path | None = None

    @model_validator(mode="after")
    def _check_disk_thresholds(self) -> Self:
        if self.fetcher_disk_pause_bytes < self.fetcher_disk_reserve_bytes:
            raise ValueError("REELHAUL_FETCHER_DISK_PAUSE_BYTES is below REELHAUL_FETCHER_DISK_RESERVE_BYTES")
        if 0 < self.fetcher_disk_quota_bytes <= self.fetcher_disk_pause_bytes * RESUME_FACTOR:
            raise ValueError(
                "REELHAUL_FETCHER_DISK_QUOTA_BYTES leaves no work to be taken:"
                f" it must be more than {RESUME_FACTOR} times REELHAUL_FETCHER_DISK_PAUSE_BYTES"
            )
        return self

    @field_validator("fetcher_upstream_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_egresses(self) -> Self:
        # The message may be logged, so it names the proxy's number, not its URL.
        proxies = list(filter(None, [self.fetcher_upstream_proxy, *self.fetcher_upstream_proxies]))
        for number, url in enumerate(proxies, 1):
            try:
                if url != _DIRECT:
                    Upstream.parse(url)
            except ValueError as error:
                raise ValueError(f"{_PROXIES}, number {number}: {error}") from None
        if len(self.egresses) < len(proxies):
            raise ValueError(f"{_PROXIES}: two of them have the same user, host and port")
        return self

    @field_validator("fetcher_player_clients", mode="before")
    @classmethod
    def _split_clients(cls, value: object) -> object:
        clients = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if isinstance(clients, list | tuple):
            clients = tuple(client for client in clients if client)
            if invalid := [client for client in clients if not _CLIENT.fullmatch(client)]:
                raise ValueError(f"{invalid[0]!r} is not a player client of YouTube")
        return clients

    @field_validator("fetcher_impersonate")
    @classmethod
    def _check_browsers(cls, value: dict[str, str]) -> dict[str, str]:
        if invalid := [browser for browser in value.values() if not _BROWSER.fullmatch(browser)]:
            raise ValueError(f"{invalid[0]!r} is not one of chrome, edge, firefox, safari and tor")
        if value and find_spec("curl_cffi") is None:
            raise ValueError("curl_cffi is not installed: pip install 'reelhaul[impersonate]'")
        return {site.lower().removeprefix("www."): browser for site, browser in value.items()}

    @field_validator(
        "fetcher_ca_file",
        "storage_adopt_dir",
        "fetcher_js_runtime",
        "fetcher_cookies_file",
        "fetcher_cookies_dir",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("fetcher_ca_file", "fetcher_js_runtime", "fetcher_cookies_file")
    @classmethod
    def _check_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"the file {value} does not exist")
        if value is not None and not os.access(value, os.R_OK):
            raise ValueError(f"this user cannot read the file {value}")
        return value and value.absolute()

    @field_validator("fetcher_ca_file")
    @classmethod
    def _check_certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
            except ssl.SSLError:
                raise ValueError(f"the file {value} has no certificates in PEM format") from None
        return value

    @field_validator("fetcher_cookies_key")
    @classmethod
    def _check_keys(cls, value: str) -> str:
        try:
            check_keys(value)
        except ValueError:
            raise ValueError("each key must be generated by `reelhaul fetcher cookies key`") from None
        return value

    @model_validator(mode="after")
    def _check_po_token_url(self) -> Self:
        if self.fetcher_network_namespace == "on" and self.fetcher_po_token_url:
            raise ValueError(
                "REELHAUL_FETCHER_PO_TOKEN_URL is contacted directly:"
                " REELHAUL_FETCHER_NETWORK_NAMESPACE=on would block it"
            )
        return self

    @property
    def namespace(self) -> Literal["off", "auto", "on"]:
        """Whether the engine gets a network namespace: not if it must reach a token provider."""
        return "off" if self.fetcher_po_token_url else self.fetcher_network_namespace

    @property
    def egresses(self) -> dict[str, str]:
        """At least one egress by name: a proxy's URL, or empty for a direct connection."""
        proxies = filter(None, [self.fetcher_upstream_proxy, *self.fetcher_upstream_proxies])
        egresses = dict((_DIRECT, "") if url == _DIRECT else (egress_name(url), url) for url in proxies)
        return egresses or {DIRECT: ""}

    @property
    def engine_options(self) -> EngineOptions:
        """The engine's options."""
        return EngineOptions(
            player_clients=self.fetcher_player_clients,
            po_token_url=self.fetcher_po_token_url,
            js_runtime=str(self.fetcher_js_runtime or ""),
            cookies_file=str(self.fetcher_cookies_file or ""),
            sponsorblock_url=self.fetcher_sponsorblock_url,
            impersonate=self.fetcher_impersonate,
            connections=self.fetcher_connections,
        )

    @property
    def cookie_keys(self) -> tuple[str, ...]:
        """Keys of the named cookies."""
        return parse_keys(self.fetcher_cookies_key)

    @property
    def cookies_dir(self) -> Path:
        """Folder of the named cookies."""
        return (self.fetcher_cookies_dir or self.data_dir / "cookies").absolute()

    @property
    def direct_fetches_per_tenant(self) -> int:
        """``fetcher_direct_fetches_per_tenant`` with the default applied."""
        return self.fetcher_direct_fetches_per_tenant or max(1, self.fetcher_slots - 1)

    @property
    def disk_thresholds(self) -> DiskThresholds:
        """Free disk space to keep."""
        return DiskThresholds(pause=self.fetcher_disk_pause_bytes, reserve=self.fetcher_disk_reserve_bytes)

    @property
    def work_dir(self) -> Path:
        """Folder of the work directories."""
        return self.data_dir.absolute() / "work"

    @property
    def adopt_dir(self) -> Path:
        """Folder that storage takes files over from."""
        return (self.storage_adopt_dir or self.work_dir).absolute()
