"""A file is whole or absent, and the one before it stays until the new one is whole."""

import json

import pytest

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
    assert file.stat().st_mode & 0o444  # not private, as temporary files are


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "record.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"record\.json is not readable as JSON"):
        read_json(tmp_path / "record.json")
