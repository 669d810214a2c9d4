"""Collect the licenses of the Python packages in a folder: ``licenses.py PACKAGES LICENSES``.

Each package gets a folder with its license files and a file PACKAGE that names version, license and home
page. Where a package ships no text, the common text of the license that it states stands for it: that of this
Debian system, or of the MIT License.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

_LICENSE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors|unlicense|patents)", re.IGNORECASE)
_COMMON = Path("/usr/share/common-licenses")
#: Files of Debian's base-files by what the metadata of packages says.
_COMMON_TEXTS = (
    (re.compile(r"apache", re.IGNORECASE), ("Apache-2.0",)),
    (re.compile(r"lgpl|lesser", re.IGNORECASE), ("LGPL-3", "GPL-3")),
    (re.compile(r"gpl", re.IGNORECASE), ("GPL-3",)),
    (re.compile(r"mpl|mozilla", re.IGNORECASE), ("MPL-2.0",)),
    (re.compile(r"bsd", re.IGNORECASE), ("BSD",)),
)
_MIT = """\
MIT License

Copyright (c) {author}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including
without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE
USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
#: What packages contain beyond what their own metadata says (LICENSES.md), by their names.
_BUNDLED = {
    "av": ("GPL-2", "GPL-3", "LGPL-3"),
    "imageio-ffmpeg": ("GPL-3",),
    "psycopg-binary": ("LGPL-3", "GPL-3"),
}


def main() -> int:
    """Collect; return 1 if a package has no license text, after naming it."""
    packages, target = map(Path, sys.argv[1:])
    missing = []
    for distribution in distributions(path=[str(packages)]):
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "PACKAGE").write_text(_describe(distribution))
        for common in _BUNDLED.get(name, ()):
            shutil.copyfile(_COMMON / common, folder / f"{common}.txt")
        if not _copy_own(distribution, folder) and not _copy_common(distribution, folder):
            missing.append(f"{name} ({_license(distribution) or 'no license in its metadata'})")
    if missing:
        sys.stderr.write(f"no license text: {', '.join(sorted(missing))}\n")
    return 1 if missing else 0


def _license(distribution: Distribution) -> str:
    metadata = distribution.metadata
    classifiers = [
        value.rpartition("::")[2].strip()
        for value in metadata.get_all("Classifier") or ()
        if value.startswith("License ::")
    ]
    stated = metadata["License-Expression"] or metadata["License"] or ""
    return stated.strip() if 0 < len(stated.strip()) < 100 else ", ".join(classifiers)


def _describe(distribution: Distribution) -> str:
    metadata = distribution.metadata
    urls = [metadata["Home-page"] or "", *(metadata.get_all("Project-URL") or ())]
    lines = [
        f"Name: {distribution.name}",
        f"Version: {distribution.version}",
        f"License: {_license(distribution)}",
    ]
    return "\n".join(lines + [f"URL: {url}" for url in urls if url]) + "\n"


def _copy_own(distribution: Distribution, folder: Path) -> bool:
    """Copy the license files of *distribution*; return whether it has one."""
    found = False
    for file in distribution.files or ():
        if not _LICENSE_FILE.match(file.name) or file.suffix in {".py", ".pyc"}:
            continue
        source = Path(str(distribution.locate_file(file)))
        if source.is_file():
            parts = [part for part in file.parts if not part.endswith(".dist-info") and part != "licenses"]
            shutil.copyfile(source, folder / "_".join(parts))
            found = True
    return found


def _copy_common(distribution: Distribution, folder: Path) -> bool:
    stated = _license(distribution)
    if re.search(r"\bMIT\b", stated):
        author = distribution.metadata["Author"] or distribution.metadata["Author-email"] or "the authors"
        (folder / "MIT.txt").write_text(_MIT.format(author=author))
        return True
    for pattern, names in _COMMON_TEXTS:
        if pattern.search(stated):
            for name in names:
                shutil.copyfile(_COMMON / name, folder / f"{name}.txt")
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
