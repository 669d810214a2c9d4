"""Replace a running version by another: ``rollout.py OVERLAY --image NAME=REPOSITORY@sha256:… --url URL …``.

The order is that of docs/operations.md: the migration of the databases, storage, jobs, fetchers, gateway, and
then the smoke test. If a step fails, the services that were replaced go back in the reverse order to the
revisions that they had, and the exit code is 1; the databases keep their new schema, with which the previous
version works.

Needs Python 3.11, and kubectl with access to the cluster.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import smoke

#: The order in which services are replaced.
SERVICES = ("storage", "jobs", "fetcher", "gateway")
_IMAGE = re.compile(r"(?P<name>[a-z0-9./_-]+)=(?P<repository>[a-z0-9.:/_-]+)@(?P<digest>sha256:[0-9a-f]{64})")
#: An image in rendered manifests: its name, without tag and digest.
_RENDERED_IMAGE = re.compile(
    r"^\s*(?:- )?image: [\"']?([^\s\"'@]+?)(?::[^\s\"'@/]+)?(?:@\S+?)?[\"']?$", re.MULTILINE
)
_NAME, _JOBS = "app.kubernetes.io/name", "app.kubernetes.io/part-of=reelhaul"
#: How long a command may take, the migration, and the replacement of a service: a fetcher drains for minutes.
_COMMAND_SECONDS, _MIGRATION_SECONDS, _SERVICE_SECONDS = 120, 900, 1200


class RolloutError(Exception):
    """A step failed; the message says which, and what it printed."""


class Target(Protocol):
    """Where a suite runs."""

    def revision(self, service: str) -> str:
        """Return the revision of *service* that runs; empty if it was never deployed."""

    def prepare(self) -> None:
        """Migrate the databases, and apply what is no service. Raises RolloutError."""

    def replace(self, service: str) -> None:
        """Replace *service*; return when all its replicas are new and ready. Raises RolloutError."""

    def restore(self, service: str, revision: str) -> None:
        """Bring *service* back to *revision*. Raises RolloutError."""


def roll_out(target: Target, check: Callable[[], str]) -> str:
    """Replace the version that runs on *target*; return the result of *check*.

    Raises RolloutError after everything that was replaced is restored.
    """
    revisions = {service: target.revision(service) for service in SERVICES}
    target.prepare()
    replaced: list[str] = []
    try:
        for service in SERVICES:
            replaced.append(service)
            target.replace(service)
        return check()
    except (RolloutError, smoke.SmokeError) as error:
        failures = [str(error)]
        for service in reversed(replaced):
            try:
                _restore(target, service, revisions[service])
            except RolloutError as failure:
                failures.append(f"{service} was not restored: {failure}")
        raise RolloutError("; ".join(failures)) from None


def _restore(target: Target, service: str, revision: str) -> None:
    if not revision:
        raise RolloutError("it had no version before")
    if target.revision(service) != revision:
        target.restore(service, revision)


class Kubernetes:
    """The cluster of kubectl's context; *overlay* is a folder of deploy/k8s.

    *images*: the images of the version, by the last part of their names. *folder*: an empty one.

    Raises RolloutError if the overlay has none of that name.
    """

    def __init__(self, overlay: Path, namespace: str, images: list[re.Match[str]], folder: Path) -> None:
        self._namespace = namespace
        self._folder = folder
        rendered = set(_RENDERED_IMAGE.findall(self._kubectl("kustomize", str(overlay))))
        lines = [f"resources: [{_relative(overlay.resolve(strict=True), folder)}]", "images:"]
        for image in images:
            names = [name for name in rendered if name.rpartition("/")[2] == image["name"]]
            if not names:
                raise RolloutError(f"{overlay} has no image {image['name']}")
            value = f"newName: {image['repository']}, digest: {image['digest']}"
            lines += [f"  - {{name: {name}, {value}}}" for name in names]
        (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")

    def revision(self, service: str) -> str:
        return self._kubectl(
            "get", "deployment", service, "--ignore-not-found",
            "--output=jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        )  # fmt: skip

    def prepare(self) -> None:
        # Jobs run once, and their templates cannot be changed.
        self._kubectl("delete", "job", f"--selector={_JOBS}", "--ignore-not-found", "--wait")
        self._apply(f"{_NAME} notin ({','.join(SERVICES)})")
        self._kubectl(
            "wait", "job", f"--selector={_JOBS}", "--for=condition=complete",
            f"--timeout={_MIGRATION_SECONDS}s", seconds=_MIGRATION_SECONDS + 60,
        )  # fmt: skip

    def replace(self, service: str) -> None:
        self._apply(f"{_NAME}={service}")
        self._wait_for(service)

    def restore(self, service: str, revision: str) -> None:
        self._kubectl("rollout", "undo", f"deployment/{service}", f"--to-revision={revision}")
        self._wait_for(service)

    def _wait_for(self, service: str) -> None:
        limit = f"--timeout={_SERVICE_SECONDS}s"
        self._kubectl(
            "rollout", "status", f"deployment/{service}", limit, seconds=_SERVICE_SECONDS + 60
        )  # fmt: skip

    def _apply(self, selector: str) -> None:
        self._kubectl("apply", f"--kustomize={self._folder}", f"--selector={selector}")

    def _kubectl(self, *arguments: str, seconds: float = _COMMAND_SECONDS) -> str:
        command = ["kubectl", f"--namespace={self._namespace}", *arguments]
        print("$", *command, flush=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise RolloutError(f"`{' '.join(command)}` took longer than {seconds:.0f} s") from None
        if done.returncode:
            raise RolloutError(f"`{' '.join(command)}` failed: {(done.stdout + done.stderr)[-2000:].strip()}")
        return done.stdout.strip()


def _relative(path: Path, folder: Path) -> str:
    """Return *path* as seen from *folder*: kustomize takes no absolute paths."""
    return "/".join([".."] * len(folder.resolve().relative_to("/").parts)) + str(path)


def _image(text: str) -> re.Match[str]:
    match = _IMAGE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=REPOSITORY@sha256:DIGEST")
    return match


def main() -> int:
    """Roll out; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overlay", type=Path, help="folder of deploy/k8s, for example an overlay of your own")
    parser.add_argument("--namespace", default="reelhaul")
    parser.add_argument("--image", type=_image, action="append", required=True, metavar="NAME=IMAGE@DIGEST")
    parser.add_argument("--url", type=smoke.origin, required=True, help="the gateway, for the smoke test")
    smoke.add_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reelhaul-rollout-") as name:
        try:
            target = Kubernetes(arguments.overlay, arguments.namespace, arguments.image, Path(name))
            found = roll_out(target, lambda: smoke.check(arguments.url, arguments))
        except (RolloutError, OSError) as error:
            print(f"rollout FAILED: {error}", file=sys.stderr)
            return 1
    print(f"rollout ok {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
