"""checkov finds no fault with the rendered overlays, but for a short list."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.deploy.kubernetes.rendering import OVERLAYS, ROOT, Resource

pytestmark = pytest.mark.deployment

_CHECKOV = ROOT / ".venv/policies/bin/checkov"
#: What is not followed, and why.
_SKIPPED = {
    "CKV_K8S_11": "a limit of CPU only lengthens what runs; requests share it fairly",
}
_SKIPPED_OF_THE_LAPTOP = {
    "CKV_K8S_15": "images are built on the laptop, where no registry has them",
    "CKV_K8S_43": "the same",
    "CKV_K8S_40": "999 is the user postgres of its official image",
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_checkov_finds_nothing(overlay: str, rendered: dict[str, list[Resource]], tmp_path: Path):
    """All checks of Kubernetes pass; each that is left out has a reason, and would fail."""
    if not _CHECKOV.exists():
        pytest.skip("checkov is missing: run make .venv/policies/stamp")
    file = tmp_path / f"{overlay}.yaml"
    # Secrets that the test has created are no secrets of the repository.
    file.write_text(yaml.safe_dump_all([each for each in rendered[overlay] if each["kind"] != "Secret"]))
    skipped = _SKIPPED | (_SKIPPED_OF_THE_LAPTOP if overlay == "laptop" else {})
    done = subprocess.run(
        [_CHECKOV, "--file", file, "--framework", "kubernetes", "--output", "json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    results = json.loads(done.stdout)
    failed = {each["check_id"] for each in results["results"]["failed_checks"]}
    explained = [
        f"{each['check_id']} {each['resource']}: {each['check_name']}"
        for each in results["results"]["failed_checks"]
        if each["check_id"] not in skipped
    ]
    assert explained == []
    assert failed == set(skipped), "what no longer fails needs no exception"
    assert results["summary"]["passed"] > 400
