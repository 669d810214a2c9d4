"""``python -m tests.docs.reference``: write the generated references of the documentation."""

from __future__ import annotations

from tests.docs.page import DOCS
from tests.docs.reference import PAGES

for name, page in PAGES.items():
    (DOCS / name).write_text(page())
    print(f"docs/{name}")
