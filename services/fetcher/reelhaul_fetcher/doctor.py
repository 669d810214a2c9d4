"""The checks of ``reelhaul doctor`` about the fetcher: engine, programs, confinement, egress, cookies."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from reelhaul_fetcher.disk.cookies import CookieFolder
from reelhaul_fetcher.media import confinement, landlock, tools
from reelhaul_fetcher.model.cookies import parse
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp import version
from reelhaul_fetcher.ytdlp.process import namespace
from reelhaul_runtime.doctor.addresses import check_reachable
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.doctor.machine import check_disk

_INSTALL = "pip install --upgrade 'reelhaul[fetcher]'"
_ENGINE = "pip install --upgrade yt-dlp yt-dlp-ejs, and restart the fetchers: docs/operations.md"
_SECONDS = 20

#: What conversions need. The encoders are those of model.packaging.
_ENCODERS = ("libx264", "aac", "libmp3lame", "libopus", "flac", "libvorbis", "pcm_s16le")
_DECODERS = ("h264", "hevc", "vp9", "libdav1d", "aac", "opus", "vorbis", "mp3")


def checks() -> Sequence[Check]:
    """Return the checks of this fetcher."""
    settings = Settings()
    return [
        Check("fetcher.engine", _check_engine),
        Check("fetcher.javascript", lambda: _check_javascript(settings)),
        Check("fetcher.ffmpeg", _check_ffmpeg),
        Check("fetcher.libav", _check_libav),
        Check("fetcher.confinement", _check_confinement),
        Check("fetcher.namespace", lambda: _check_namespace(settings)),
        Check("fetcher.disk", lambda: _check_work_disk(settings)),
        Check("fetcher.egress", lambda: _check_egresses(settings)),
        Check("fetcher.youtube", lambda: _check_youtube(settings)),
        Check("fetcher.cookies", lambda: _check_cookies(settings)),
    ]


def _check_engine() -> Finding:
    age = version.engine_age()
    text = f"{age.engine} is {age.days_text}; this build needs {age.floor or 'any'} or newer"
    # Its metadata may be there without it.
    if importlib.util.find_spec("yt_dlp") is None:
        return problem("yt-dlp is not installed", _INSTALL)
    if age.state == "below the floor":
        return problem(text, _ENGINE)
    return ok(text) if age.state == "ok" else warning(f"{text}: sites change faster than that", _ENGINE)


def _check_javascript(settings: Settings) -> Finding:
    """Return whether the JavaScript of YouTube's player can be run."""
    if settings.fetcher_js_runtime is not None:
        program = str(settings.fetcher_js_runtime)
    else:
        try:
            from deno import find_deno_bin

            program = find_deno_bin()
        except (ImportError, FileNotFoundError):
            return problem("deno is not installed: YouTube offers few formats without it", _INSTALL)
    code, output = _run(program, "--version")
    first = output.partition("\n")[0]
    return problem(f"{program} does not run: {first}", _INSTALL) if code else ok(f"{first}, {program}")


def _check_ffmpeg() -> Iterator[Finding]:
    try:
        program = str(tools.find_ffmpeg())
    except FileNotFoundError as error:
        yield problem(str(error), _INSTALL)
        return
    code, output = _run(program, "-hide_banner", "-version")
    if code:
        yield problem(f"{program} does not run: {output[:200]}", _INSTALL)
        return
    encoders, decoders = (_run(program, "-hide_banner", option)[1] for option in ("-encoders", "-decoders"))
    missing = [name for name in _ENCODERS if f" {name} " not in encoders]
    missing += [f"{name} (to read)" for name in _DECODERS if f" {name} " not in decoders]
    text = " ".join(output.split()[:3])
    if missing:
        yield problem(f"{text} lacks the codecs {', '.join(missing)}", "pip install imageio-ffmpeg")
    else:
        yield ok(f"{text} with all {len(_ENCODERS) + len(_DECODERS)} codecs that conversions need")


def _check_libav() -> Finding:
    """Return whether libav, which inspects what was received in place of ffprobe, can be loaded."""
    try:
        import av
    except ImportError as error:
        return problem(f"libav cannot be loaded: {error}", _INSTALL)
    return ok(
        f"PyAV {av.__version__} with libavformat {'.'.join(map(str, av.library_versions['libavformat']))}"
    )


def _check_confinement() -> Finding:
    mechanism = confinement.mechanism()
    if mechanism is confinement.Mechanism.LANDLOCK:
        return ok(f"Landlock (version {landlock.version()}) confines ffmpeg and deno")
    if mechanism is confinement.Mechanism.NAMESPACE:
        return ok("mount namespaces confine ffmpeg and deno; this kernel has no Landlock")
    return warning(
        "neither Landlock nor user namespaces: hostile code in ffmpeg or deno could read files",
        "use a kernel from 5.13 on with Landlock, or let this user create user namespaces",
    )


def _check_namespace(settings: Settings) -> Finding:
    if settings.namespace == "off":
        return ok("the engine runs without a network namespace; the guard alone limits it")

    async def try_namespace() -> None:
        async with namespace.open_namespace("on"):
            pass

    try:
        asyncio.run(try_namespace())
    except namespace.NamespaceUnavailable as error:
        level = problem if settings.namespace == "on" else warning
        return level(
            f"no network namespace: {error}",
            "allow user namespaces, or set REELHAUL_FETCHER_NETWORK_NAMESPACE=off",
        )
    return ok("the engine can run in a network namespace")


def _check_work_disk(settings: Settings) -> Iterator[Finding]:
    yield from check_disk(settings.work_dir, "REELHAUL_DATA_DIR", settings.fetcher_disk_pause_bytes)


def _check_egresses(settings: Settings) -> Iterator[Finding]:
    for name, url in settings.egresses.items():
        if not url:
            yield _check_direct()
            continue
        found = check_reachable(f"egress {name}", f"{urlsplit(url).hostname}:{urlsplit(url).port or 80}")
        yield found


def _check_direct() -> Finding:
    """Return whether this machine has a route and a name server; no site is contacted."""
    routes = [*_lines("/proc/net/route")[1:], *_lines("/proc/net/ipv6_route")]
    has_route = any(
        line.split()[1] == "00000000" or (line.startswith("0" * 32 + " 00") and not line.endswith(" lo"))
        for line in routes
        if len(line.split()) > 1
    )
    servers = [line for line in _lines("/etc/resolv.conf") if line.startswith("nameserver")]
    lacking = [text for text, has in (("default route", has_route), ("name server", servers)) if not has]
    if lacking:
        return problem(
            f"the direct egress has no {' and no '.join(lacking)}",
            "connect this machine, or set REELHAUL_FETCHER_UPSTREAM_PROXY",
        )
    return ok(f"the direct egress has a default route and {len(servers)} name servers")


def _check_youtube(settings: Settings) -> Iterator[Finding]:
    url = settings.fetcher_po_token_url
    if url:
        yield check_reachable("REELHAUL_FETCHER_PO_TOKEN_URL", url)
    else:
        yield ok(
            "no provider of PO tokens is configured",
            "set REELHAUL_FETCHER_PO_TOKEN_URL if YouTube takes this network for a robot: docs/downloads.md",
        )


def _check_cookies(settings: Settings) -> Iterator[Finding]:
    if not settings.cookie_keys:
        has_files = settings.cookies_dir.is_dir() and any(settings.cookies_dir.glob("*.cookies"))
        if has_files:
            yield problem(
                f"{settings.cookies_dir} has cookies, and REELHAUL_FETCHER_COOKIES_KEY is not set",
                "set the key that they were stored with",
            )
        else:
            yield ok("no named cookies are configured")
        return
    stored = CookieFolder(settings.cookies_dir, settings.cookie_keys).list()
    for each in stored:
        yield from _check_jar(each.name, each.jar.text if each.jar else None, each.refused)
    if not stored:
        yield ok("no named cookies are stored")


def _check_jar(name: str, text: str | None, refused: str) -> Iterator[Finding]:
    replace = f"reelhaul fetcher cookies add {name} FILE"
    if text is None:
        yield problem(f"the cookies {name} cannot be decrypted", "set the key that they were stored with")
        return
    times = [cookie.expires for cookie in parse(text) if cookie.expires]
    if refused:
        yield problem(f"the site refused the cookies {name}", replace)
    elif times and max(times) <= datetime.now(UTC):
        yield problem(f"the cookies {name} have expired", replace)
    elif times:
        yield ok(f"the cookies {name} expire from {min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}")
    else:
        yield ok(f"the cookies {name} are session cookies")


def _run(program: str, *arguments: str) -> tuple[int, str]:
    try:
        completed = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return completed.returncode, completed.stdout or completed.stderr


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
