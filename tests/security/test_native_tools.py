"""Native tools read only what they are given: ffmpeg, libav and deno open no file that a site names.

Each row of the tables is a file that is a playlist, a manifest or a document of another format as well, or
only that, and names a file outside the job. The kernel reports (inotify) whether anything opens that file.
Its allowed twin is an ordinary file of the format that it pretends to be.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import deno
import pytest
from tests.fetcher.conftest import open_harness
from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.media import ensure_media
from tests.sites.site import Site, start_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import DeliveredMedia, Format, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.media import confinement, ffmpeg, inspector_client, landlock, tools
from reelhaul_fetcher.media.confinement import Mechanism
from reelhaul_fetcher.media.inspection import NotMedia
from reelhaul_fetcher.media.verify import Expected, verify
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.postprocess.pipeline import postprocess
from reelhaul_fetcher.ytdlp.postprocess.plan import OutputPlan
from reelhaul_fetcher.ytdlp.process.environment import build_environment
from reelhaul_runtime.errors import ReelhaulError

_IN_NONBLOCK, _IN_OPEN = os.O_NONBLOCK, 0x20
_libc = ctypes.CDLL(None, use_errno=True)

_PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\n{file}\n#EXT-X-ENDLIST\n"
_MANIFEST = (
    '<?xml version="1.0" encoding="ISO-8859-1"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT8S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="{kind}/mp4"><Representation id="1" bandwidth="9000" codecs="mp4a.40.2">'
    "<BaseURL>{file}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
_CONCATENATION = "ffconcat version 1.0\nfile '{file}'\n"
_SESSION = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    "a=control:{file}\n"
)
_COMPOSITION = (
    '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
    "<Id>urn:uuid:0eb3d1b9-b77b-4d3f-bbe5-7c69b15dca84</Id><ContentTitle>{file}</ContentTitle>"
    "<EditRate>25 1</EditRate><SegmentList></SegmentList></CompositionPlaylist>"
)
_DRAWING = (
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'width="64" height="36"><image width="64" height="36" xlink:href="{file}" href="{file}"/></svg>'
)
_AVISYNTH = 'AVISource("{file}")\n'

#: Returns the bytes of a file that names the file given.
Build = Callable[[str], bytes]


@dataclass(frozen=True)
class Polyglot:
    """A file that names another, and how ffmpeg's command line creates its allowed twin."""

    name: str
    build: Build
    twin: tuple[str, ...]


def _text(template: str, tail: bytes = b"", kind: str = "audio") -> Build:
    return lambda file: template.format(file=file, kind=kind).encode() + tail


def _mp3_frames() -> bytes:
    """Return MPEG audio frames (layer III, 128 kbit/s, 44.1 kHz), all of whose bytes may be in XML."""
    return (b"\xff\xfb\x90\x64" + b"A" * 413) * 400


def _mp3_and_manifest(file: str) -> bytes:
    return _text(_MANIFEST)(file) + b"<!--" + _mp3_frames() + b"-->"


def _jpeg_and_manifest(file: str) -> bytes:
    """Return a picture whose first segment, a comment, is a manifest."""
    manifest = _text(_MANIFEST, kind="video")(file)
    # No zero byte before the manifest: a probe stops there.
    comment = manifest.ljust(0x0F0F)
    return b"\xff\xd8\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + b"\xff\xd9"


_SOUND = ("-t", "8", "-map", "1:a")
_BOTH = ("-t", "8", "-map", "0:v", "-map", "1:a")
_NAMES_A_FILE = ("-metadata", "comment=" + _MANIFEST.format(file="file:///etc/hostname", kind="audio"))

MEDIA = {
    "mp3 and MPD": Polyglot("stream0.mp3", _mp3_and_manifest, (*_SOUND, *_NAMES_A_FILE, "-f", "mp3")),
    "MPD": Polyglot("stream0.mp4", _text(_MANIFEST), (*_BOTH, *_NAMES_A_FILE, "-f", "mp4")),
    "mp4 and HLS": Polyglot("stream0.mp4", _text(_PLAYLIST, bytes(64)), (*_BOTH, "-f", "mp4")),
    "wav and HLS": Polyglot(
        "stream0.wav", _text(_PLAYLIST, b"#RIFF\0\0\1\0WAVEfmt "), (*_SOUND, "-f", "wav")
    ),
    "mp3 and HLS": Polyglot("stream0.mp3", _text(_PLAYLIST, _mp3_frames()), (*_SOUND, "-f", "mp3")),
    "ffconcat": Polyglot("stream0.mkv", _text(_CONCATENATION), (*_BOTH, *_NAMES_A_FILE, "-f", "matroska")),
    "SDP": Polyglot("stream0.webm", _text(_SESSION), (*_SOUND, "-c:a", "libopus", "-f", "webm")),
    "IMF": Polyglot("stream0.ogg", _text(_COMPOSITION), (*_SOUND, "-c:a", "libopus", "-f", "ogg")),
    "AVI reference": Polyglot("stream0.avi", _text(_AVISYNTH), (*_BOTH, "-f", "avi")),
    "TS reference": Polyglot(
        "stream0.ts", _text(_PLAYLIST, (b"G" + b"\xff" * 187) * 40), (*_BOTH, "-f", "mpegts")
    ),
}
_PICTURE = ("-frames:v", "1", "-map", "0:v")
PICTURES = {
    "jpeg and MPD": Polyglot(
        "thumbnail.raw", _jpeg_and_manifest, (*_PICTURE, "-c:v", "mjpeg", "-f", "mjpeg")
    ),
    "MPD": Polyglot(
        "thumbnail.raw", _text(_MANIFEST, kind="video"), (*_PICTURE, "-c:v", "png", "-f", "image2pipe")
    ),
    "HLS": Polyglot("thumbnail.m3u8", _text(_PLAYLIST), (*_PICTURE, "-c:v", "libwebp", "-f", "webp")),
    "ffconcat": Polyglot("thumbnail.raw", _text(_CONCATENATION), (*_PICTURE, "-f", "gif")),
    "SVG": Polyglot("thumbnail.svg", _text(_DRAWING), (*_PICTURE, "-c:v", "libaom-av1", "-f", "avif")),
    "SDP": Polyglot("thumbnail.sdp", _text(_SESSION), (*_PICTURE, "-c:v", "bmp", "-f", "image2pipe")),
    "IMF": Polyglot(
        "thumbnail.raw", _text(_COMPOSITION), ("-t", "1", "-map", "0:v", "-c:v", "libwebp_anim", "-f", "webp")
    ),
}
REFERENCES = ("file://{other}", "{other}", "../other-job/other.mp4", "../../other-job/other.mp4")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put ffmpeg on PATH."""
    monkeypatch.setenv("PATH", f"{tools.link(tmp_path / 'tools')}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def inspector() -> Iterator[None]:
    """An inspector, as in every child."""
    inspector_client.start()
    yield
    inspector_client.stop()


@pytest.fixture(params=[*Mechanism], ids=lambda mechanism: mechanism.value)
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mechanism:
    """Each mechanism of confinement, and none, where the forced formats and the descriptors remain."""
    if request.param is Mechanism.LANDLOCK and not landlock.version():
        pytest.skip("this kernel has no Landlock")
    monkeypatch.setenv(confinement.VARIABLE, request.param.value)
    found: Mechanism = request.param
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The work directory of a job."""
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


@pytest.fixture
def other(tmp_path: Path, site: Site) -> Path:
    """A media file of another job."""
    file = tmp_path / "other-job" / "other.mp4"
    file.parent.mkdir()
    file.write_bytes(site.media.file("/media/360.mp4").read_bytes())
    return file


@contextmanager
def watched(file: Path) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether any process has opened *file* since."""
    descriptor = _libc.inotify_init1(_IN_NONBLOCK)
    assert _libc.inotify_add_watch(descriptor, bytes(file), _IN_OPEN) > 0

    def was_opened() -> bool:
        with suppress(BlockingIOError):
            return bool(os.read(descriptor, 4096))
        return False

    try:
        yield was_opened
    finally:
        os.close(descriptor)


def create_twin(arguments: tuple[str, ...], file: Path) -> None:
    """Create *file* by ffmpeg."""
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=5:d=8", "-f", "lavfi", "-i", "sine=d=8"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", *inputs, *arguments, str(file)], check=True, timeout=60
    )


def convert(file: Path) -> DeliveredMedia:
    """Make an audio file of *file*, as after its download."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=FormatSpec.Audio(format=FormatSpec.Audio.FLAC))
    request = FetchRequest("http://site.invalid/", spec, file.parent, "http://guard.invalid:1")
    plan = OutputPlan(request, MediaInfo(title="title"), [Format(format_id="0")])
    tracker = ProgressTracker(lambda _: None, time.monotonic)
    return postprocess([ReceivedStream((file,))], plan, tracker, lambda _: None).delivered


def failure_of(action: Callable[[Path], object], file: Path) -> str:
    """Return how *action* fails on *file*; empty if it does not."""
    try:
        action(file)
    except (ReelhaulError, ffmpeg.FfmpegFailed) as error:
        return str(error)
    return ""


def to_jpeg(picture: Path) -> None:
    """Write *picture* as JPEG beside it."""
    ffmpeg.to_jpeg(picture, picture.with_name("thumbnail.jpg"))


@pytest.mark.usefixtures("mechanism", "inspector")
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("polyglot", MEDIA.values(), ids=MEDIA)
def test_media_that_names_a_file(polyglot: Polyglot, reference: str, folder: Path, other: Path) -> None:
    """No stage of post-processing opens the file, and the outcome is the same if there is no such file."""
    file, outcomes = folder / polyglot.name, []
    with watched(other) as was_opened:
        for named in (other, other.with_name("missing.mp4")):
            file.write_bytes(polyglot.build(reference.format(other=named).replace(other.name, named.name)))
            outcomes.append(failure_of(convert, file))
        assert not was_opened()
    assert outcomes[0] == outcomes[1]


@pytest.mark.usefixtures("inspector")
@pytest.mark.parametrize("polyglot", MEDIA.values(), ids=MEDIA)
def test_media_of_that_format(polyglot: Polyglot, folder: Path) -> None:
    """An ordinary file of the same name is converted, whatever its metadata say."""
    create_twin(polyglot.twin, folder / polyglot.name)
    delivered = convert(folder / polyglot.name)
    assert delivered.audio_codec == "flac"
    assert delivered.duration.seconds in (7, 8)


CONTAINERS = {
    "mov": (*_BOTH, "-f", "mp4"),
    "matroska": (*_BOTH, "-f", "matroska"),
    "mp3": (*_SOUND, "-f", "mp3"),
    "wav": (*_SOUND, "-f", "wav"),
    "flac": (*_SOUND, "-f", "flac"),
    "ogg": (*_SOUND, "-c:a", "libopus", "-f", "ogg"),
    "avi": (*_BOTH, "-f", "avi"),
    "mpegts": (*_BOTH, "-f", "mpegts"),
}


@pytest.mark.usefixtures("inspector")
@pytest.mark.parametrize(("demuxer", "twin"), CONTAINERS.items(), ids=CONTAINERS)
def test_inspection_by_a_known_demuxer(demuxer: str, twin: tuple[str, ...], folder: Path) -> None:
    """A file is read by the demuxer that is known to be its own, never by the one that it looks like."""
    file = folder / "stream0"
    create_twin(twin, file)
    expected = inspector_client.inspect(file)
    assert expected.demuxer == demuxer
    assert inspector_client.inspect(file, demuxer) == replace(expected, containers=frozenset({demuxer}))
    for other_demuxer in CONTAINERS.keys() - {demuxer}:
        with suppress(NotMedia):
            assert inspector_client.inspect(file, other_demuxer).demuxer == other_demuxer


@pytest.mark.usefixtures("inspector")
@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("result.mp4", CONTAINERS["mov"]),
        ("result.mkv", CONTAINERS["matroska"]),
        ("result.mp3", CONTAINERS["mp3"]),
        ("result.flac", CONTAINERS["flac"]),
        ("result.opus", CONTAINERS["ogg"]),
        ("chapter1.wav", CONTAINERS["wav"]),
    ],
)
def test_verification_of_what_was_written(name: str, twin: tuple[str, ...], folder: Path) -> None:
    """A finished file is verified as its container; one that looks like another container fails."""
    file, expected = folder / name, Expected(8.0, video=False, audio=True)
    create_twin(twin, file)
    assert verify(file, expected).duration.seconds in (7, 8)
    file.unlink()
    create_twin(CONTAINERS["mpegts"], file)
    with pytest.raises(ReelhaulError) as failure:
        verify(file, expected)
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED


@pytest.mark.usefixtures("mechanism", "inspector")
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("polyglot", PICTURES.values(), ids=PICTURES)
def test_picture_that_names_a_file(polyglot: Polyglot, reference: str, folder: Path, other: Path) -> None:
    """The file is not opened, and the conversion fails as it does if there is no such file.

    The text of the failure is not told to anyone: the thumbnail is missing.
    """
    file = folder / polyglot.name
    with watched(other) as was_opened:
        for named in (other, other.with_name("missing.mp4")):
            file.write_bytes(polyglot.build(reference.format(other=named).replace(other.name, named.name)))
            assert failure_of(to_jpeg, file)
        assert not was_opened()


@pytest.mark.usefixtures("inspector")
@pytest.mark.parametrize("polyglot", PICTURES.values(), ids=PICTURES)
def test_picture_of_the_web(polyglot: Polyglot, folder: Path) -> None:
    """Pictures in the formats of the web become JPEG files, also by another name."""
    create_twin(polyglot.twin, folder / polyglot.name)
    to_jpeg(folder / polyglot.name)
    assert (folder / "thumbnail.jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """ffmpeg is not told the proxy and its credentials; it is told where programs are."""
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://session:secret@127.0.0.1:1")
    lines: list[str] = []
    ffmpeg.run_process(["env"], lines.append)
    assert not [line for line in lines if "secret" in line]
    assert f"PATH={os.environ['PATH']}" in lines


_DENO = ("--ext=js", "--no-prompt", "--no-remote", "--no-lock", "--no-config", "--no-npm", "--cached-only")
_START_DENO = """
import os, subprocess, sys
from reelhaul_fetcher.ytdlp.process import child
child.warm_up()
os.environ["HTTP_PROXY"] = "http://session:secret@127.0.0.1:1"
import yt_dlp
process = yt_dlp.utils.Popen(
    sys.argv[1:], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
)
print(*process.communicate(sys.stdin.read()))
"""


def test_deno(other: Path, folder: Path, mechanism: Mechanism) -> None:
    """JavaScript of a site runs; even with all permissions of deno it reads no file and no credentials.

    On a system that offers no mechanism, deno's own permissions are all that keeps it from files.
    """
    script = f"""
console.log(6 * 7);
for (const path of ["{other}", "../other-job/{other.name}", "/etc/hostname", "/proc/self/environ"]) {{
    try {{ Deno.readFileSync(path); console.log("read", path); }} catch (error) {{ console.log(error.name); }}
}}
try {{ Deno.writeTextFileSync("{folder}/new", "x"); }} catch (error) {{ console.log(error.name); }}
console.log(JSON.stringify(Deno.env.toObject()));
"""
    with watched(other) as was_opened:
        printed = run_deno(script, folder)
        assert was_opened() is (mechanism is Mechanism.NONE)
    if mechanism is Mechanism.LANDLOCK:
        assert printed.split("\n")[:6] == ["42", *["PermissionDenied"] * 5]
    if mechanism is Mechanism.NAMESPACE:
        # The folder is read-only: no file can be created in it.
        assert printed.split("\n")[:6] == ["42", *["NotFound"] * 4, "Error"]
    assert printed.startswith("42\n")
    assert "secret" not in printed


_ESCAPES = {
    "UDP": "Deno.listenDatagram({port: 0, transport: 'udp'})",
    "TCP": "await Deno.connect({port: 1})",
    "TCP server": "Deno.listen({port: 0})",
    "Unix socket": "await Deno.connect({transport: 'unix', path: '/tmp/x'})",
    "HTTP": "await fetch('http://127.0.0.1:1/')",
    "DNS": "await Deno.resolveDns('site.test', 'A', {nameServer: {ipAddr: '127.0.0.1', port: 1}})",
    "process": "new Deno.Command('/bin/true').outputSync()",
    "signal": "Deno.kill(Deno.ppid, 'SIGCONT')",
}
_COMPUTATION = """
const fibonacci = (n) => n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
const objects = Array.from({length: 500000}, (_, i) => ({i, text: "x" + i})).filter((each) => each.i % 2);
await new Promise((resolve) => setTimeout(resolve, 10));
const module = new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
const digest = await crypto.subtle.digest("SHA-256", new Uint8Array(10));
console.log(fibonacci(22), objects.length, new Function("return 5")(), digest.byteLength, +new Date(0));
"""


def run_deno(script: str, folder: Path) -> str:
    """Return what *script* prints, run as a player's JavaScript with all permissions that deno can give."""
    command = [str(deno.find_deno_bin()), "run", "--allow-all", "--unstable-net", *_DENO, "-"]
    completed = subprocess.run(
        [sys.executable, "-c", _START_DENO, *command],
        input=script,
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        timeout=100,
    )
    return completed.stdout


@pytest.mark.usefixtures("mechanism")
def test_deno_leaves_its_process_by_no_call(folder: Path) -> None:
    """JavaScript, even with all permissions, makes no sockets, processes or signals; it computes as usual."""
    attempts = "".join(
        f"try {{ {call}; console.log('{name}: done'); }} catch {{ console.log('{name}: refused'); }}\n"
        for name, call in _ESCAPES.items()
    )
    lines = run_deno(attempts + _COMPUTATION, folder).splitlines()
    assert lines[: len(_ESCAPES)] == [f"{name}: refused" for name in _ESCAPES]
    assert lines[len(_ESCAPES)] == "17711 250000 5 32 0"


class HostileSite(Site):
    """The site, with further contents by path: their media type and their bytes."""

    contents: dict[str, tuple[str, bytes]]

    async def respond(self, request: Request) -> Response:
        """Return those contents, or what every site returns."""
        if request.path not in self.contents:
            return await super().respond(request)
        media_type, body = self.contents[request.path]
        return Response(200, body, {"Content-Type": media_type})


def _page(sound: str, poster: str, subtitles: str) -> tuple[str, bytes]:
    track = f'<track kind="subtitles" srclang="en" src="{subtitles}">'
    video = f'<video poster="{poster}"><source src="{sound}" type="audio/mpeg">{track}</video>'
    return "text/html", f"<title>title</title>{video}".encode()


@pytest.mark.usefixtures("mechanism")
async def test_fetch(folder: Path, other: Path, tmp_path: Path) -> None:
    """A fetch opens no file that its site names, and its warnings do not tell whether there is one."""
    create_twin(MEDIA["mp3 and MPD"].twin, tmp_path / "sound.mp3")
    site = HostileSite(ensure_media())
    environment = build_environment(tools.link(tmp_path / "tools"), tmp_path, None)
    spec = FormatSpec(
        media_kind=FormatSpec.AUDIO,
        audio=FormatSpec.Audio(format=FormatSpec.Audio.M4A),
        subtitles=FormatSpec.Subtitles(languages=["en"]),
        thumbnail=True,
    )
    with (
        serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="hostile_site"),
        watched(other) as was_opened,
    ):
        config = GuardConfig(allow_networks=("127.0.0.2/32",))
        async with open_harness(environment, tmp_path, config) as harness:
            warnings = []
            for named in (other, other.with_name("missing.mp4")):
                url = f"file://{named}"
                site.contents = {
                    "/hostile": _page("/polyglot.mp3", "/poster.jpg", url),
                    "/honest": _page("/sound.mp3", "/media/thumbnail.jpg", "/media/subtitles-en.vtt"),
                    "/polyglot.mp3": ("audio/mpeg", _mp3_and_manifest(url)),
                    "/poster.jpg": ("image/jpeg", _text(_MANIFEST, kind="video")(url)),
                    "/sound.mp3": ("audio/mpeg", (tmp_path / "sound.mp3").read_bytes()),
                }
                result = await harness.fetch(site.url("/hostile"), spec)
                warnings.append([(warning.reason, warning.message) for warning in result.warnings])
            result = await harness.fetch(site.url("/honest"), spec)
        assert not was_opened()
    assert len(result.products) == 3
    assert not result.warnings
    assert [reason for reason, _ in warnings[0]] == [
        MediaWarning.SUBTITLES_MISSING,
        MediaWarning.THUMBNAIL_MISSING,
    ]
    assert warnings[0] == warnings[1]
