"""Media files of the site: created once by ffmpeg and cached, so that their digests are stable."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from tests.sites import tools

SECONDS = 8
HEIGHTS = (1080, 720, 360)
LANGUAGES = ("en", "de")
#: Subtitle cues: start and end in seconds, text by language.
CUES = (
    (0.5, 2.5, {"en": "A picture that moves", "de": "Ein Bild, das sich bewegt"}),
    (3.0, 5.0, {"en": "and a tone beside it", "de": "und ein Ton daneben"}),
    (5.5, 7.5, {"en": "That is all.", "de": "Das ist alles."}),
)

_WIDTH = {1080: 1920, 720: 1280, 360: 640}
_TONE = {"en": 440, "de": 330}
# ISO 639-2 codes, which MP4 requires.
_ISO639_2 = {"en": "eng", "de": "deu"}
# One thread and no encoder name in the file: one machine always produces the same bytes.
_EXACT = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]


@dataclass(frozen=True)
class Media:
    """A folder of media files, laid out like the site's paths."""

    folder: Path
    #: Site path (``/media/1080.mp4``) -> SHA-256 of the file in hex.
    digests: dict[str, str]

    def file(self, path: str) -> Path:
        """Return the file of the site path *path*."""
        return self.folder / path.lstrip("/")


def is_cached() -> bool:
    """Return whether the user's cache has the media."""
    return (user_cache() / _recipe_key() / "digests.json").exists()


def ensure_media(cache_folder: Path | None = None) -> Media:
    """Return the media, created now unless *cache_folder* (default: the user's cache) has them."""
    folder = (cache_folder or user_cache()) / _recipe_key()
    if not (folder / "digests.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new_folder = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        try:
            _create(new_folder)
            os.rename(new_folder, folder)
        except OSError:
            # Another process was faster; its files are the same.
            if not (folder / "digests.json").exists():
                raise
        finally:
            shutil.rmtree(new_folder, ignore_errors=True)
    return Media(folder, json.loads((folder / "digests.json").read_text()))


def webvtt(language: str) -> str:
    """Return the subtitles in *language* as WebVTT."""
    cues = (f"{_timestamp(start)} --> {_timestamp(end)}\n{text[language]}\n" for start, end, text in CUES)
    return "WEBVTT\n\n" + "\n".join(cues)


def _create(folder: Path) -> None:
    for name in ("source", "media", "hls", "hls-ts", "hls-aes", "dash"):
        (folder / name).mkdir()
    for step in (_encode(), _package(), _package_dash()):
        tools.run_ffmpeg(*step, folder=folder)
    for language in LANGUAGES:
        (folder / f"media/subtitles-{language}.vtt").write_text(webvtt(language))
        _write_hls_subtitles(folder, language)
    (folder / "hls/master.m3u8").write_text(_master_with_groups())
    (folder / "hls-ts/master.m3u8").write_text(_master_muxed())
    _write_encrypted(folder)
    shutil.rmtree(folder / "source")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {f"/{path.relative_to(folder)}": tools.file_digest(path) for path in files}
    (folder / "digests.json").write_text(json.dumps(digests, indent=1))


def _encode() -> list[str]:
    """Return ffmpeg arguments that encode video in three heights, audio in each language, and a thumbnail."""
    inputs = ["-f", "lavfi", "-i", f"testsrc2=s=1920x1080:r=25:d={SECONDS}"]
    for language in LANGUAGES:
        inputs += ["-f", "lavfi", "-i", f"sine=frequency={_TONE[language]}:sample_rate=44100:d={SECONDS}"]
    graph = (
        "[0:v]format=yuv420p,split=3[v1080][b][c];"
        "[b]scale=1280:720:flags=fast_bilinear[v720];[c]scale=640:360:flags=fast_bilinear[v360]"
    )
    # A key frame exactly every two seconds aligns the segments of all renditions.
    x264 = ["-c:v", "libx264", "-preset", "superfast", "-crf", "30", "-g", "50", "-sc_threshold", "0"]
    command = [*inputs, "-filter_complex", graph]
    for height in HEIGHTS:
        command += ["-map", f"[v{height}]", *x264, *_EXACT, f"source/{height}.mp4"]
    for index, language in enumerate(LANGUAGES, start=1):
        tagged = ["-metadata:s:a:0", f"language={_ISO639_2[language]}"]
        audio = ["-c:a", "aac", "-b:a", "96k", *tagged, "-movflags", "+faststart"]
        command += ["-map", f"{index}:a", *audio, *_EXACT, f"media/audio-{language}.m4a"]
    picture = ["-map", "0:v", "-frames:v", "1", "-vf", "scale=640:360", "-f", "image2", "-update", "1"]
    return [*command, *picture, *_EXACT, "media/thumbnail.jpg"]


def _package() -> list[str]:
    """Return ffmpeg arguments that mux progressive files and HLS segments from the encoded streams."""
    command = _encoded_inputs()
    for index, height in enumerate(HEIGHTS):
        both = ["-map", f"{index}:v", "-map", f"{len(HEIGHTS)}:a", "-c", "copy"]
        command += [*both, *_EXACT, "-movflags", "+faststart", f"media/{height}.mp4"]
        command += [*both, *_EXACT, *_hls(f"hls-ts/{height}", "mpegts", "ts")]
        command += ["-map", f"{index}:v", "-c", "copy", *_EXACT, *_hls(f"hls/{height}", "fmp4", "m4s")]
    for index, language in enumerate(LANGUAGES, start=len(HEIGHTS)):
        alone = ["-map", f"{index}:a", "-c", "copy"]
        command += [*alone, *_EXACT, *_hls(f"hls/audio-{language}", "fmp4", "m4s")]
    return command


def _package_dash() -> list[str]:
    """Return ffmpeg arguments that mux the DASH segments and manifest from the encoded streams."""
    command = _encoded_inputs()
    for index in range(len(HEIGHTS) + len(LANGUAGES)):
        command += ["-map", str(index)]
    for index, language in enumerate(LANGUAGES):
        command += [f"-metadata:s:a:{index}", f"language={language}"]
    sets = "id=0,streams=v id=1,streams=3 id=2,streams=4"
    names = [
        "-init_seg_name",
        "$RepresentationID$-init.m4s",
        "-media_seg_name",
        "$RepresentationID$-$Number$.m4s",
    ]
    dash = ["-f", "dash", "-seg_duration", "2", "-adaptation_sets", sets, *names]
    return [*command, "-c", "copy", *_EXACT, *dash, "dash/manifest.mpd"]


def _encoded_inputs() -> list[str]:
    """Return ffmpeg arguments that read all encoded streams."""
    files = [f"source/{height}.mp4" for height in HEIGHTS]
    files += [f"media/audio-{language}.m4a" for language in LANGUAGES]
    return [word for file in files for word in ("-i", file)]


def _hls(stem: str, kind: str, extension: str) -> list[str]:
    """Return output options of one HLS rendition: playlist *stem*.m3u8 and segments in the same folder."""
    name = Path(stem).name
    vod = ["-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", "-hls_segment_type", kind]
    init = ["-hls_fmp4_init_filename", f"{name}-init.mp4"] if kind == "fmp4" else []
    return [*vod, *init, "-hls_segment_filename", f"{stem}-%d.{extension}", f"{stem}.m3u8"]


def _master_with_groups() -> str:
    """Return a master playlist with separate renditions for audio and subtitles."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"]
    for kind, group, prefix in (("AUDIO", "sound", "audio"), ("SUBTITLES", "text", "subtitles")):
        for language in LANGUAGES:
            default = "YES" if language == LANGUAGES[0] else "NO"
            lines.append(
                f'#EXT-X-MEDIA:TYPE={kind},GROUP-ID="{group}",NAME="{language}",LANGUAGE="{language}",'
                f'DEFAULT={default},AUTOSELECT=YES,URI="{prefix}-{language}.m3u8"'
            )
    for height in HEIGHTS:
        lines.append(f'{_variant(height)},AUDIO="sound",SUBTITLES="text"')
        lines.append(f"{height}.m3u8")
    return "\n".join([*lines, ""])


def _master_muxed() -> str:
    """Return a master playlist of MPEG-TS renditions with video and audio muxed."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3"]
    for height in HEIGHTS:
        lines += [_variant(height), f"{height}.m3u8"]
    return "\n".join([*lines, ""])


def _variant(height: int) -> str:
    bandwidth = {1080: 6_000_000, 720: 2_500_000, 360: 900_000}[height]
    return (
        f"#EXT-X-STREAM-INF:BANDWIDTH={bandwidth},RESOLUTION={_WIDTH[height]}x{height},"
        'FRAME-RATE=25.000,CODECS="avc1.640028,mp4a.40.2"'
    )


def _write_hls_subtitles(folder: Path, language: str) -> None:
    name = f"subtitles-{language}"
    (folder / f"hls/{name}-0.vtt").write_text(webvtt(language))
    head = f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{SECONDS}\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    body = f"#EXTINF:{SECONDS},\n{name}-0.vtt\n#EXT-X-ENDLIST\n"
    (folder / f"hls/{name}.m3u8").write_text(head + body)


def _write_encrypted(folder: Path) -> None:
    """Write the smallest rendition with encrypted segments (RFC 8216, 4.3.2.4 and 5.2)."""
    key, iv = bytes(range(16)), bytes(16)
    (folder / "hls-aes/key.bin").write_bytes(key)
    lines = (folder / "hls-ts/360.m3u8").read_text().splitlines()
    for name in (line for line in lines if line.endswith(".ts")):
        padder = padding.PKCS7(128).padder()
        plain = padder.update((folder / "hls-ts" / name).read_bytes()) + padder.finalize()
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        (folder / "hls-aes" / name).write_bytes(encryptor.update(plain) + encryptor.finalize())
    lines.insert(1, f'#EXT-X-KEY:METHOD=AES-128,URI="key.bin",IV=0x{iv.hex()}')
    (folder / "hls-aes/360.m3u8").write_text("\n".join([*lines, ""]))


def _timestamp(seconds: float) -> str:
    return f"00:00:{seconds:06.3f}"


def user_cache() -> Path:
    """Return the folder in which media are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "reelhaul" / "sites"


def _recipe_key() -> str:
    """Return the cache key of the media: a hash of this module and of the size of ffmpeg."""
    encoder = tools.ffmpeg().stat()
    return sha256(Path(__file__).read_bytes() + str(encoder.st_size).encode()).hexdigest()[:16]
