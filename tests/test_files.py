"""Files: whole or not at all, with the rights that were asked for."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pytest

from abatch import files
from abatch.errors import FileError
from tests.conftest import ROOT


@pytest.fixture
def umask() -> Iterator[int]:
    """A strict umask, whatever the tests were started with."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def read_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_check_writable(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "models")
    assert list((tmp_path / "new" / "models").iterdir()) == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "models"):
        with pytest.raises(
            FileError,
            match=rf"^{place}: cannot be written \(.*\)\. Check the folder's rights and room",
        ):
            files.check_writable(place)


def test_check_writable_rights_of_a_new_folder(umask: int, tmp_path: Path) -> None:
    files.check_writable(tmp_path / "models")
    files.check_writable(tmp_path / "snapshots", 0o700)
    assert [read_mode(tmp_path / name) for name in ("models", "snapshots")] == [0o750, 0o700]
    files.check_writable(
        tmp_path / "models", 0o700
    )  # an old one keeps the rights that somebody gave it
    assert read_mode(tmp_path / "models") == 0o750


def test_write_file_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "taken.pkl").mkdir()
    for path in (tmp_path / "taken.pkl", tmp_path / "no" / "model.pkl"):
        with pytest.raises(FileError, match=rf"^{path}: cannot be written"):
            files.write_file(path, b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.pkl"]


@pytest.mark.parametrize("name", ["file/model.pkl", "n" * 300])
def test_write_file_where_nothing_can_lie_beside(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        FileError,
        match=rf"^{tmp_path / name}: cannot be written \(.*\)\. Check the folder's rights and room",
    ):
        files.write_file(tmp_path / name, b"content")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_file_disk_full_keeps_the_old_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    def fail(*args: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "model.pkl"
    files.write_file(path, b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(
        FileError,
        match=(
            rf"^{path}: cannot be written \(No space left on device\)\. Check the folder's rights"
            r" and room"
        ),
    ):
        files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [files.write_file, files.create_file])
def test_write_file_is_on_disk_before_its_name_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    """And its name is, once it is written: the folder comes last."""
    path, synced, real = tmp_path / "model.pkl", [], os.fsync

    def sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if is_folder else "file", path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write(path, b"content")
    assert synced == [("file", False), ("folder", True)]


@pytest.mark.parametrize(
    ("number", "is_told"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_sync_folder_where_it_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, is_told: bool
) -> None:
    def fail(descriptor: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") if is_told else nullcontext():
        files.sync_folder(tmp_path)


def test_is_older_of_what_has_just_gone(tmp_path: Path) -> None:
    """As a file beside that gets its name while the folder is looked through."""
    assert not files.is_older(tmp_path / ".model.pkl.4711", datetime(2030, 1, 1))
    (tmp_path / "model.pkl").touch()
    os.utime(tmp_path / "model.pkl", (1e9, 1e9))  # 2001-09-09 01:46:40 UTC
    assert not files.is_older(tmp_path / "model.pkl", datetime(2001, 9, 9, 1, 46, 40))
    assert files.is_older(tmp_path / "model.pkl", datetime(2001, 9, 9, 1, 46, 41))


def test_create_file_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / ".abatch-owner"
    files.create_file(path, b"first")
    with pytest.raises(FileExistsError):
        files.create_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileError, match=r"no/mark: cannot be written \(No such file"):
        files.create_file(tmp_path / "no" / "mark", b"")


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_create_final_says_that_another_was_quicker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int | None
) -> None:
    """Also where the file system has no hard links."""

    def fail(source: Path, target: Path) -> NoReturn:
        assert number is not None
        raise OSError(number, os.strerror(number))

    if number is not None:
        monkeypatch.setattr(os, "link", fail)
    path = tmp_path / "model.pkl"
    files.create_final(path, b"first")
    assert read_mode(path) == 0o640
    with pytest.raises(FileError, match=rf"^{path}: is there already, so another run was at the"):
        files.create_final(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_create_final_of_many_at_once_is_one(tmp_path: Path) -> None:
    """Threads of one process would share the file beside, so these are processes."""
    code = (
        "import os, sys; from pathlib import Path; from abatch import errors, files\n"
        "input()\n"
        "try: files.create_final(Path(sys.argv[1]), str(os.getpid()).encode())\n"
        "except errors.FileError: sys.exit(1)"
    )
    path = tmp_path / "model.pkl"
    command = [sys.executable, "-c", code, str(path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.close()
    ended = {process.pid: process.wait() for process in processes}
    assert sorted(ended.values()) == [0, 1, 1, 1]
    (first,) = [pid for pid, code in ended.items() if code == 0]
    assert path.read_text() == str(first)
    assert list(tmp_path.iterdir()) == [path]


def test_write_file_over_what_a_dead_run_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    (tmp_path / f".model.pkl.{os.getpid()}").write_bytes(
        b"half of a file, and longer than the whole"
    )
    files.write_file(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("asked", "given"), [(0o666, 0o640), (0o600, 0o600), (0o644, 0o640)])
def test_write_file_rights(umask: int, tmp_path: Path, asked: int, given: int) -> None:
    path = tmp_path / "rows.parquet"
    path.touch(0o777)  # those of an older file do not stay
    files.write_file(path, b"content", asked)
    assert read_mode(path) == given


@pytest.mark.parametrize(("mask", "given"), [(0o022, 0o640), (0, 0o640), (0o077, 0o600)])
def test_write_file_rights_by_default(umask: int, tmp_path: Path, mask: int, given: int) -> None:
    """Whatever the umask, nobody beyond the group reads it."""
    os.umask(mask)
    files.write_file(tmp_path / "model.json", b"{}")
    assert read_mode(tmp_path / "model.json") == given


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder to any group")
@pytest.mark.parametrize("mode", [0o750, 0o2750])
def test_write_file_has_the_folders_group(tmp_path: Path, mode: int) -> None:
    """With setgid, by which folders below have it too, and without."""
    os.chown(tmp_path, -1, 4711)
    tmp_path.chmod(mode)
    files.write_file(tmp_path / "model.json", b"{}")
    about = (tmp_path / "model.json").stat()
    assert (about.st_gid, about.st_mode & 0o7777) == (4711, 0o640)
    if mode == 0o2750:
        files.check_writable(tmp_path / "dev")
        files.write_file(tmp_path / "dev" / "model.json", b"{}")
        assert (tmp_path / "dev" / "model.json").stat().st_gid == 4711


def test_write_file_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    files.write_file(path, b"old")
    with path.open("rb") as reader:
        files.write_file(path, b"new, and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new, and longer"


def test_hash_bytes_as_published() -> None:
    """FIPS 180-2, appendix B.1, and the digest of nothing."""
    assert (
        files.hash_bytes(b"abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert (
        files.hash_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_remove_harmless_to_repeat(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    files.remove(tmp_path / "a.parquet")
    files.remove(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b.parquet").mkdir()
    with pytest.raises(FileError, match=rf"^{tmp_path / 'b.parquet'}: cannot be written"):
        files.remove(tmp_path / "b.parquet")


def test_read_file_waits_for_no_pipe_and_no_device(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a pipe or a device"):
            files.read_file(path)
    (tmp_path / "file").write_bytes(b"\0\xff")
    (tmp_path / "link").symlink_to("file")
    assert files.read_file(tmp_path / "link") == b"\0\xff"
    with pytest.raises(FileNotFoundError):
        files.read_file(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        files.read_file(tmp_path)
