"""Existing files: neither overwritten nor numbered apart from their sidecars."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from reelhaul.existing_files import Content, OnExists, Placement, SaveFailed, Target, prepare_folder

VIDEO, SUBTITLES = b"a video", b"its subtitles"


def content(name: str, data: bytes) -> Content:
    return Content(name, len(data), hashlib.sha256(data).hexdigest())


def save(folder: Path, files: dict[str, bytes], on_exists: OnExists = "number") -> list[Target]:
    """Save *files* as a client does: what is there already is not received."""
    placement = Placement(folder, [content(name, data) for name, data in files.items()], on_exists)
    received = {}
    for number, (target, data) in enumerate(zip(placement.choose(), files.values(), strict=False)):
        if not target.exists:
            received[number] = folder / f".{number}.part"
            received[number].write_bytes(data)
    targets = placement.publish(received)
    for path in received.values():
        path.unlink(missing_ok=True)
    return targets


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_free_names_are_used(tmp_path):
    """In an empty folder files get their own names, and nothing is left beside them."""
    save(tmp_path, {"Title.mp4": VIDEO, "Title.en.srt": SUBTITLES})
    assert listing(tmp_path) == {"Title.en.srt": SUBTITLES, "Title.mp4": VIDEO}


def test_sidecars_get_the_number_of_their_video(tmp_path):
    """If one name is taken by another content, all files of the job get the same number."""
    (tmp_path / "Title.mp4").write_bytes(b"another video")
    save(tmp_path, {"Title.mp4": VIDEO, "Title.en.srt": SUBTITLES, "01 Intro - Title.mp4": b"a chapter"})
    assert listing(tmp_path) == {
        "01 Intro - Title (2).mp4": b"a chapter",
        "Title (2).en.srt": SUBTITLES,
        "Title (2).mp4": VIDEO,
        "Title.mp4": b"another video",
    }


def test_a_taken_sidecar_numbers_the_video_too(tmp_path):
    """A video does not stand beside the subtitles of another one."""
    (tmp_path / "Title.en.srt").write_bytes(b"others")
    save(tmp_path, {"Title.mp4": VIDEO, "Title.en.srt": SUBTITLES})
    assert sorted(listing(tmp_path)) == ["Title (2).en.srt", "Title (2).mp4", "Title.en.srt"]


@pytest.mark.parametrize("on_exists", ["number", "skip", "replace"])
def test_identical_files_are_not_saved_again(tmp_path, on_exists):
    """A second save of a job changes nothing, and returns the paths of the first."""
    files = {"Title.mp4": VIDEO, "Title.en.srt": SUBTITLES}
    first = save(tmp_path, files)
    times = [target.path.stat().st_mtime_ns for target in first]
    second = save(tmp_path, files, on_exists)
    assert [(t.path, t.exists) for t in second] == [(t.path, True) for t in first]
    assert [target.path.stat().st_mtime_ns for target in second] == times


def test_a_missing_sidecar_joins_its_numbered_video(tmp_path):
    """Subtitles that were deleted are saved beside the copy that they belong to."""
    (tmp_path / "Title.mp4").write_bytes(b"another video")
    files = {"Title.mp4": VIDEO, "Title.en.srt": SUBTITLES}
    save(tmp_path, files)
    (tmp_path / "Title (2).en.srt").unlink()
    save(tmp_path, files)
    assert sorted(listing(tmp_path)) == ["Title (2).en.srt", "Title (2).mp4", "Title.mp4"]


def test_skip_keeps_all(tmp_path):
    """With skip, no file of a job is saved if one of its names is taken by another content."""
    (tmp_path / "Title.mp4").write_bytes(b"another video")
    assert save(tmp_path, {"Title.mp4": VIDEO, "Title.en.srt": SUBTITLES}, "skip") == []
    assert listing(tmp_path) == {"Title.mp4": b"another video"}


def test_replace(tmp_path):
    """With replace, files take the place of others of their names."""
    (tmp_path / "Title.mp4").write_bytes(b"another video")
    save(tmp_path, {"Title.mp4": VIDEO}, "replace")
    assert listing(tmp_path) == {"Title.mp4": VIDEO}


def test_an_unknown_digest_is_never_identical(tmp_path):
    """Without a digest from the server a file of the same size is another one."""
    (tmp_path / "Title.mp4").write_bytes(VIDEO)
    targets = Placement(tmp_path, [Content("Title.mp4", len(VIDEO), "")]).choose()
    assert targets == [Target(tmp_path / "Title (2).mp4", False)]


def test_a_name_that_is_taken_meanwhile(tmp_path):
    """A name that another program takes during the download is not overwritten."""
    placement = Placement(tmp_path, [content("Title.mp4", VIDEO), content("Title.srt", SUBTITLES)])
    assert [target.path.name for target in placement.choose()] == ["Title.mp4", "Title.srt"]
    parts = {0: tmp_path / ".0.part", 1: tmp_path / ".1.part"}
    parts[0].write_bytes(VIDEO)
    parts[1].write_bytes(SUBTITLES)
    (tmp_path / "Title.srt").write_bytes(b"of another program")
    targets = placement.publish(parts)
    assert [target.path.name for target in targets] == ["Title (2).mp4", "Title (2).srt"]
    assert listing(tmp_path) == {
        "Title (2).mp4": VIDEO,
        "Title (2).srt": SUBTITLES,
        "Title.srt": b"of another program",
    }


def test_a_file_that_disappears_meanwhile(tmp_path):
    """If an identical file was not received and is deleted meanwhile, the error says so."""
    (tmp_path / "Title.mp4").write_bytes(VIDEO)
    placement = Placement(tmp_path, [content("Title.mp4", VIDEO)])
    assert placement.choose()[0].exists
    (tmp_path / "Title.mp4").unlink()
    with pytest.raises(SaveFailed, match=r"Title\.mp4"):
        placement.publish({})


def test_links_and_folders_are_taken_names(tmp_path):
    """A dangling link and a folder are not replaced."""
    (tmp_path / "a.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.mp4").mkdir()
    for name in ("a.mp4", "b.mp4"):
        assert save(tmp_path, {name: VIDEO})[0].path.name == f"{name[0]} (2).mp4"
    assert not (tmp_path / "nowhere").exists()


def test_names_of_the_server_are_data(tmp_path):
    """A name cannot leave the folder, and two files of one name become two files."""
    targets = save(tmp_path, {"../../etc/passwd": VIDEO, ".._.._etc_passwd": SUBTITLES})
    assert {target.path.parent for target in targets} == {tmp_path}
    assert len({target.path for target in targets}) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path):
    """A folder that cannot be written to is found out before the download."""
    tmp_path.chmod(0o500)
    with pytest.raises(SaveFailed, match="Permission denied"):
        prepare_folder(tmp_path)


def test_a_folder_is_created(tmp_path):
    """A missing folder is created; one whose parent is a file is an error that names it."""
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(SaveFailed, match="file"):
        prepare_folder(tmp_path / "file" / "b")


def test_an_unknown_rule_is_rejected(tmp_path):
    """A misspelt rule is an error that lists the valid ones."""
    with pytest.raises(ValueError, match="number, skip, replace"):
        Placement(tmp_path, [], "overwrite")
