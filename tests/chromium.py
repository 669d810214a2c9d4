"""Chromium, driven by Playwright: that of this machine, else Debian's, unpacked into a cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from tests import debian_packages

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FONTS = "fonts-dejavu-core"


@dataclass(frozen=True)
class Chromium:
    """The program, and the variables that it needs."""

    program: str
    environment: dict[str, str]


def find_chromium() -> Chromium:
    """Return a Chromium. The first call may take minutes. Raises debian_packages.Missing."""
    for name in _PROGRAMS:
        if program := shutil.which(name):
            return Chromium(program, {})
    folder = debian_packages.unpack("chromium", _FONTS)
    environment = debian_packages.environment(folder)
    # Libraries that only other libraries load.
    private = [str(each) for each in folder.glob("usr/lib/*-linux-*/pulseaudio")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join([environment["LD_LIBRARY_PATH"], *private])
    environment["FONTCONFIG_FILE"] = str(_write_font_list(folder))
    # /usr/bin/chromium is a script for an installed Chromium.
    return Chromium(str(folder / "usr/lib/chromium/chromium"), environment)


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Run a browser without a window until the block ends. Raises debian_packages.Missing."""
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.program,
            # Its sandbox refuses root, as which containers run tests.
            chromium_sandbox=os.geteuid() != 0,
            args=["--disable-dev-shm-usage", "--disable-gpu"],
            env={**os.environ, **chromium.environment},
        )
        try:
            yield browser
        finally:
            browser.close()


def _write_font_list(folder: Path) -> Path:
    """Return a configuration of fontconfig with the fonts in *folder* and those of this machine."""
    path = folder / "fonts.conf"
    if not path.exists():
        new = path.with_name(f"fonts.conf.{os.getpid()}")
        folders = "".join(f"<dir>{each}</dir>" for each in (folder / "usr/share/fonts", "/usr/share/fonts"))
        new.write_text(f"<fontconfig>{folders}<cachedir>{folder}/fonts-cache</cachedir></fontconfig>\n")
        new.replace(path)
    return path
