"""A file is whole or absent, and the one before it stays until the new one is whole."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from setr_lib import files
from setr_lib.files import read_json, whole_file, write_json


def test_a_failure_leaves_the_old_file(tmp_path):
    file = tmp_path / "record.json"
    write_json(file, {"a": 1})
    with pytest.raises(RuntimeError), whole_file(file) as temporary:
        temporary.write_text('{"a": 2')
        raise RuntimeError("the power went")
    with pytest.raises(ValueError):
        write_json(file, {"a": float("nan")})
    assert read_json(file) == {"a": 1} and list(tmp_path.iterdir()) == [file]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    """The new file takes the old one's name; who has the old one open reads it to its end."""
    file = tmp_path / "record.json"
    write_json(file, {"a": 1})
    with open(file) as reader:
        write_json(file, {"b": 2})
        assert json.load(reader) == {"a": 1}
    assert read_json(file) == {"b": 2}


@pytest.mark.parametrize("content", [b'{"a": ', b'{"a": "\xff"}', b"\xff\xfe{", b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path, content):
    """Cut off, not UTF-8, UTF-16, nested without end."""
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"record\.json is not readable as JSON"):
        read_json(tmp_path / "record.json")


def test_only_what_may_be_written_is_synchronised(tmp_path, monkeypatch):
    """Windows refuses fsync for a handle that was opened for reading."""
    fcntl = pytest.importorskip("fcntl")

    def fsync(number):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "a.json", 1)
    assert read_json(tmp_path / "a.json") == 1


def test_text_is_utf8_whatever_the_platform_prefers(tmp_path, monkeypatch):
    """Windows' code page lacks most of the world's letters."""
    write, read = Path.write_text, Path.read_text
    monkeypatch.setattr(
        Path, "write_text", lambda p, s, encoding="cp1252", **k: write(p, s, encoding, **k)
    )
    monkeypatch.setattr(Path, "read_text", lambda p, encoding="cp1252", **k: read(p, encoding, **k))
    file = tmp_path / "a.json"
    write_json(file, "道路")
    file.write_bytes('"道路"'.encode())
    assert read_json(file) == "道路"


@pytest.mark.parametrize("there", [False, True])
def test_a_refused_chmod_loses_nothing(tmp_path, monkeypatch, there):
    """Mounts of object stores know no modes."""

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    file = tmp_path / "a.json"
    if there:
        write_json(file, 0)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    write_json(file, 1)
    assert read_json(file) == 1


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_keeps_its_mode(tmp_path, mode):
    file = tmp_path / "a.json"
    write_json(file, 1)
    file.chmod(mode)
    with whole_file(file) as temporary:
        assert temporary.stat().st_mode & 0o077 == 0, "nobody reads it before it has the mode"
        temporary.write_text("2")
    assert file.stat().st_mode & 0o777 == mode and read_json(file) == 2


@pytest.mark.parametrize("umask, mode", [(0o077, 0o600), (0o022, 0o644)])
def test_a_new_file_obeys_the_umask_which_nobody_touches(tmp_path, monkeypatch, umask, mode):
    before = os.umask(umask)
    try:
        monkeypatch.setattr(os, "umask", None)  # to set it for an instant opens others' files
        write_json(tmp_path / "a.json", 1)
        monkeypatch.undo()
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.json"
    link.symlink_to(tmp_path / "disk" / "real.json")
    for value in (1, 2):  # where the link leads nowhere yet, too
        write_json(link, value)
        assert link.is_symlink() and read_json(tmp_path / "disk" / "real.json") == value


def test_a_name_of_any_length_can_be_written(tmp_path):
    write_json(tmp_path / f"{'a' * 245}.json", 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["touch", "write_text", "replace"])
def test_a_disk_that_takes_nothing_is_said_with_the_files_name(tmp_path, monkeypatch, number, call):
    """Full, read-only or forbidden; not the temporary's name, which nobody knows."""

    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), None if call == "write_text" else str(path))

    monkeypatch.setattr(os if call == "replace" else Path, call, refuse)
    with pytest.raises(OSError) as raised:
        write_json(tmp_path / "a.json", 1)
    assert str(raised.value).endswith(f"'{tmp_path / 'a.json'}'") and raised.value.errno == number
    assert not any(tmp_path.iterdir())


def test_temporaries_of_dead_processes_are_cleared_and_only_these(tmp_path, monkeypatch):
    """Whatever file they were to become; those of the living and of other machines stay."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    name = ".{}.part-{}-{}-0badcafe.png"
    dead = [name.format("b.png", files.HOST, pid) for pid in (process.pid, os.getpid())]
    alive = [
        name.format("b.png", files.HOST, os.getppid()),
        name.format("b.png", "otherone", process.pid),
        ".b.png.mine.png",
    ]
    for file in (*dead, *alive):
        (tmp_path / file).touch()
    with whole_file(tmp_path / "c.png") as temporary:
        write_json(tmp_path / "d.json", 1)
        assert temporary.exists()
    assert {p.name for p in tmp_path.iterdir()} == {*alive, "c.png", "d.json"}
