"""What the fetcher is told from outside, as ``REELHAUL_*``."""

from __future__ import annotations

import ipaddress
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from reelhaul_fetcher.guard.dialer import Upstream
from reelhaul_fetcher.model.disk_limits import RESUME_FACTOR, DiskThresholds
from reelhaul_fetcher.model.egresses import DIRECT, egress_name
from reelhaul_fetcher.model.engine_options import SPONSORBLOCK_URL, EngineOptions
from reelhaul_runtime.settings import SuiteSettings

_URL = r"^(https?://[^\s/@]+(/\S*)?)?$"
# The egress that is no proxy, where there are others.
_DIRECT = "direct"
_BROWSER = re.compile(r"(chrome|edge|firefox|safari|tor)(-[0-9.]{1,8})?(:[a-z]{1,10}(-[0-9.]{1,8})?)?")
_CLIENT = re.compile(r"-?[a-z_]{1,32}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(SuiteSettings):
    """The suite's settings, and those that only a fetcher needs."""

    #: Downloads at a time.
    fetcher_slots: int = Field(default=2, ge=1, le=256)
    #: Connections of one download at a time, the most; more than one only where one is slow.
    fetcher_connections: int = Field(default=8, ge=1, le=32)
    #: Recordings of what is live at a time, beside the slots.
    fetcher_recordings: int = Field(default=4, ge=0, le=256)
    #: Pool of work that this fetcher takes from.
    fetcher_pool: str = Field(default="default", pattern=r"^[a-z0-9-]{1,32}$")
    #: http://[user:password@]host:port behind the guard; empty means straight out.
    fetcher_upstream_proxy: str = Field(default="", repr=False)
    #: More of the same, comma separated: an attempt goes out by one of them. ``direct`` is straight out.
    fetcher_upstream_proxies: Annotated[tuple[str, ...], NoDecode] = Field(default=(), repr=False)
    #: Bytes that each egress may carry in a day (UTC); 0 means any number.
    fetcher_egress_daily_bytes: int = Field(default=0, ge=0)
    #: PEM file of certificates to trust besides the usual ones.
    fetcher_ca_file: Path | None = None
    #: CIDRs that the guard lets through besides global addresses, comma separated.
    fetcher_allow_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    #: Folder that storage may take finished files from; the work folder where unset.
    storage_adopt_dir: Path | None = None
    #: Most bytes that work folders may take in all; 0: what the disk has.
    fetcher_disk_quota_bytes: int = Field(default=0, ge=0)
    #: Below so many free bytes no work is taken until there are more.
    fetcher_disk_pause_bytes: int = Field(default=1 << 30, ge=0)
    #: What running downloads leave free: of those that cannot, the youngest are handed back.
    fetcher_disk_reserve_bytes: int = Field(default=256 << 20, ge=0)
    #: Longest play time that is fetched, where the job does not say; seconds.
    fetcher_max_duration_seconds: int = 12 * 3600
    #: Seconds without a received byte, or with less than a trickle, that end an attempt.
    fetcher_stall_seconds: float = Field(default=60.0, gt=0)
    #: CPU seconds that one fetch may burn, its ffmpeg included.
    fetcher_cpu_seconds: int = Field(default=4 * 3600, ge=10)
    #: Bytes of memory that each process of a fetch may take.
    fetcher_memory_bytes: int = Field(default=4 << 30, ge=256 << 20)

    #: A translator of subtitles that speaks LibreTranslate's HTTP API; empty means none.
    fetcher_translator_url: str = Field(default="", pattern=_URL)
    #: What it asks its callers for; empty means nothing.
    fetcher_translator_key: str = Field(default="", repr=False)
    #: SponsorBlock's service, asked through the guard.
    fetcher_sponsorblock_url: str = Field(default=SPONSORBLOCK_URL, pattern=_URL)
    #: YouTube's clients to be taken for, the first first, comma separated; empty: yt-dlp's own choice.
    fetcher_player_clients: Annotated[tuple[str, ...], NoDecode] = ()
    #: Where tokens of proof of origin are made, as bgutil's plugin of yt-dlp asks for them.
    fetcher_po_token_url: str = Field(default="", pattern=_URL)
    #: The deno that solves players' riddles; the one of its wheel where unset.
    fetcher_js_runtime: Path | None = None
    #: Browsers to be taken for, by site, e.g. {"tiktok.com": "chrome"}; wants curl_cffi.
    fetcher_impersonate: dict[str, str] = Field(default_factory=dict)
    #: Whether the engine lives in a network of its own, with the guard's door in it and nothing else.
    fetcher_network_namespace: Literal["off", "auto", "on"] = "off"
    #: Cookies in Netscape's form, a secret; each fetch has a copy of its own. Unset means none.
    fetcher_cookies_file: Path | None = Field(default=None, repr=False)
    #: Keys of the named cookies, comma separated: the first seals, each opens. Empty: there are none.
    fetcher_cookies_key: str = Field(default="", repr=False)
    #: Where named cookies are kept, encrypted; ``cookies`` in the data folder where unset.
    fetcher_cookies_dir: Path | None = None

    @field_validator("fetcher_allow_networks", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _marks_in_order(self) -> Self:
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
    def _proxies(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _egresses_are_told_apart(self) -> Self:
        # What it says may show in a log: the number, never the URL.
        proxies = list(filter(None, [self.fetcher_upstream_proxy, *self.fetcher_upstream_proxies]))
        for number, url in enumerate(proxies, 1):
            try:
                if url != _DIRECT:
                    Upstream.parse(url)
            except ValueError as error:
                raise ValueError(f"upstream proxy {number}: {error}") from None
        if len(self.egresses) < len(proxies):
            raise ValueError("two upstream proxies have the same user, host and port")
        return self

    @field_validator("fetcher_player_clients", mode="before")
    @classmethod
    def _clients(cls, value: object) -> object:
        clients = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if isinstance(clients, list | tuple):
            clients = tuple(client for client in clients if client)
            if strange := [client for client in clients if not _CLIENT.fullmatch(client)]:
                raise ValueError(f"{strange[0]!r} is no player client of YouTube")
        return clients

    @field_validator("fetcher_impersonate")
    @classmethod
    def _browsers(cls, value: dict[str, str]) -> dict[str, str]:
        if strange := [browser for browser in value.values() if not _BROWSER.fullmatch(browser)]:
            raise ValueError(f"{strange[0]!r} is no browser: chrome, edge, firefox, safari or tor")
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

    @field_validator("fetcher_js_runtime", "fetcher_cookies_file")
    @classmethod
    def _is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value and value.absolute()

    @model_validator(mode="after")
    def _tokens_are_within_reach(self) -> Self:
        if self.fetcher_network_namespace == "on" and self.fetcher_po_token_url:
            raise ValueError(
                "REELHAUL_FETCHER_PO_TOKEN_URL is asked directly:"
                " REELHAUL_FETCHER_NETWORK_NAMESPACE=on would bar it"
            )
        return self

    @property
    def namespace(self) -> Literal["off", "auto", "on"]:
        """Whether the engine gets a network of its own: not where it has to reach a maker of tokens."""
        return "off" if self.fetcher_po_token_url else self.fetcher_network_namespace

    @property
    def egresses(self) -> dict[str, str]:
        """The ways out by name: a proxy's URL, or empty for straight out. One at least."""
        proxies = filter(None, [self.fetcher_upstream_proxy, *self.fetcher_upstream_proxies])
        found = dict((_DIRECT, "") if url == _DIRECT else (egress_name(url), url) for url in proxies)
        return found or {DIRECT: ""}

    @property
    def engine_options(self) -> EngineOptions:
        """How the engine gets at sites."""
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
        """The keys of the named cookies."""
        return tuple(key for part in self.fetcher_cookies_key.split(",") if (key := part.strip()))

    @property
    def cookies_dir(self) -> Path:
        """Where named cookies are kept."""
        return (self.fetcher_cookies_dir or self.data_dir / "cookies").absolute()

    @property
    def marks(self) -> DiskThresholds:
        """How much of the disk is left free."""
        return DiskThresholds(pause=self.fetcher_disk_pause_bytes, reserve=self.fetcher_disk_reserve_bytes)

    @property
    def work_dir(self) -> Path:
        """Where attempts have their folders."""
        return self.data_dir.absolute() / "work"

    @property
    def adopt_dir(self) -> Path:
        """The folder that storage takes files over from."""
        return (self.storage_adopt_dir or self.work_dir).absolute()
