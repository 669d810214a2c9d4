"""The programs of examples/, run as their readers run them, against one suite."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.servers import free_port
from tests.sites.site import Site
from tests.suite.downloads import download
from tests.suite.suite import Suite, running_suite

from reelhaul.api_keys import create_key_string
from reelhaul.rest import AsyncClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose webhooks may reach this machine."""
    data_dir = tmp_path_factory.mktemp("examples") / "data"
    with running_suite(data_dir, jobs_webhook_networks="127.0.0.1/32") as running:
        yield running


@pytest.fixture
def environment(suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of the examples: where the server is. The working directory is empty."""
    variables = {
        "REELHAUL_GATEWAY_ADDRESS": suite.address("gateway"),
        "REELHAUL_JOBS_ADDRESS": suite.address("jobs"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def load(name: str) -> dict[str, Any]:
    """Import the example *name* without running its main program."""
    return runpy.run_path(str(EXAMPLES / name), run_name=name)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_fastapi_app(environment: dict[str, str], site: Site) -> None:
    """A user of the web application gets a file; another user does not see the job."""
    app = load("fastapi_app.py")["app"]
    transport, headers = httpx.ASGITransport(app), {"x-user": "ada"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app.test", headers=headers) as http,
        httpx.AsyncClient(trust_env=False) as browser,
    ):
        created = await http.post("/videos", json={"url": site.url("/watch/demo"), "quality": "360p"})
        assert created.status_code == 202, created.text
        path = f"/videos/{created.json()['id']}"
        assert (await http.get(f"{path}/progress")).text.splitlines()[-1] == "end"
        assert (await http.get(path)).json()["status"] == "SUCCEEDED"
        assert (await http.get(path, headers={"x-user": "bob"})).status_code == 404
        link = (await http.get(f"{path}/file")).headers["location"]
        content = (await browser.get(link)).raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == site.digest("/media/360.mp4")
        rejected = await http.post("/videos", json={"url": site.url("/watch/demo"), "quality": "huge"})
        assert (rejected.status_code, rejected.json()["reason"]) == (400, "FIELD_INVALID")
        assert rejected.json()["remedy"]


@contextmanager
def running(command: list[Any], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_transcriber(suite: Suite, environment: dict[str, str], site: Site, tmp_path: Path) -> None:
    """The worker gets a webhook for a finished job, and saves its transcript; Ctrl-C removes the webhook."""
    port = free_port()
    command = [sys.executable, EXAMPLES / "transcriber.py", port, tmp_path, f"http://127.0.0.1:{port}/"]
    with running([*map(str, command)], environment) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "waiting for jobs\n"
        options = {"quality": "360p", "subtitle_languages": ["en"], "subtitle_formats": ["txt"]}
        job = download(suite, site.url("/watch/demo"), **options)
        title, _, path = worker.stdout.readline().strip().rpartition(": ")
        assert title == job["title"]
        (expected,) = [file for file in job["files"] if file["name"].endswith(".txt")]
        assert digest(Path(path)) == expected["sha256"]
        unsigned = httpx.post(f"http://127.0.0.1:{port}/", json={"type": "job.succeeded"}, trust_env=False)
        assert unsigned.status_code == 400
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 0
    assert suite.http.get("/v1/webhooks").json().get("webhooks", []) == []


class ChatMessage:
    """A message of a small fake of a chat platform, with the methods of discord.py."""

    def __init__(self, content: str) -> None:
        self.contents = [content]
        self.replies: list[ChatMessage] = []

    @property
    def content(self) -> str:
        return self.contents[-1]

    async def reply(self, content: str) -> ChatMessage:
        self.replies.append(ChatMessage(content))
        return self.replies[-1]

    async def edit(self, *, content: str) -> None:
        self.contents.append(content)


async def test_bot(suite: Suite, environment: dict[str, str], site: Site) -> None:
    """The bot replies with a link to the file, or with what went wrong; other messages are none of its."""
    video, missing, forbidden, chat = (
        ChatMessage(text)
        for text in (
            f"!get {site.url('/watch/demo')}",
            f"!get {site.url('/watch/unknown')}",
            "!get file:///etc/passwd",
            "hello",
        )
    )
    async with AsyncClient.from_env() as client:
        bot = load("bot.py")["Bot"](client)
        await asyncio.gather(*map(bot.on_message, (video, missing, forbidden, chat)))
    link = video.replies[0].content.rpartition(" ")[2]
    async with httpx.AsyncClient(trust_env=False) as http:
        content = (await http.get(link)).raise_for_status().content
    assert hashlib.sha256(content).hexdigest() == site.digest("/media/720.mp4")
    assert missing.replies[0].content.startswith("that did not work: ")
    assert "http or https" in forbidden.replies[0].content
    assert chat.replies == []


def test_notebook(
    environment: dict[str, str], site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The cells of the notebook run in their order."""
    monkeypatch.setenv("VIDEO_URL", site.url("/watch/demo"))
    names: dict[str, Any] = {}
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    output = capsys.readouterr().out
    assert "URL_INVALID" in output
    assert output.count("SUCCEEDED 360p") == 1
    assert digest(names["saved"][0].path) == site.digest("/media/360.mp4")


def test_curl_script(environment: dict[str, str], site: Site, tmp_path: Path) -> None:
    """The script saves the file, resumes an interrupted transfer, and says why a download failed."""
    command = [EXAMPLES / "download.sh", site.url("/watch/demo"), tmp_path / "videos"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(Path(done.stdout.strip())) == site.digest("/media/720.mp4")
    assert len(list((tmp_path / "videos").iterdir())) == 1
    command[1] = site.url("/watch/unknown")
    failed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert failed.returncode == 1
    assert "MEDIA_NOT_FOUND" in failed.stderr


def test_buf_script(environment: dict[str, str], site: Site) -> None:
    """The script creates a job over gRPC and prints its events to the end."""
    command = [EXAMPLES / "download-grpc.sh", site.url("/watch/demo")]
    # Sent, though this suite needs none.
    environment["REELHAUL_API_KEY"] = create_key_string()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert '"snapshot"' in done.stdout
    assert '"completed"' in done.stdout
