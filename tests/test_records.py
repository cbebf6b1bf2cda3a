"""A record says where it comes from, and a damaged one is named."""

import io
import shutil
import subprocess
import sys

import pytest

from setr_lib import load_record
from setr_lib.files import say
from setr_lib.training import record as records
from setr_lib.training.record import git_commit, load_log

ME = ("-c", "user.name=me", "-c", "user.email=me@example.org")


def git(folder, *words):
    done = subprocess.run(["git", *ME, *words], cwd=folder, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository that holds the package."""
    root = tmp_path / "checkout"
    (root / "setr_lib" / "training").mkdir(parents=True)
    (root / "setr_lib" / "training" / "record.py").write_text("1")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "mine")
    return root


def test_the_commit_is_that_of_the_checkout_and_changes_are_told(checkout, monkeypatch):
    commit = git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40 and git_commit(checkout) == commit
    monkeypatch.setenv("GIT_DIR", str(records.ROOT / ".git"))  # as where a hook starts a run
    assert git_commit(checkout) == commit
    (checkout / "setr_lib" / "training" / "record.py").write_text("2")
    assert git_commit(checkout) == f"{commit}+changes"


def test_a_linked_worktree_is_a_checkout_too(checkout, tmp_path):
    git(checkout, "worktree", "add", "-q", str(tmp_path / "linked"))
    assert git_commit(tmp_path / "linked") == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("place", ["site-packages", "empty .git", "top level"])
def test_another_repository_is_never_named(checkout, place):
    """A package in the user's own project, wherever in it, has none of its commits."""
    root = checkout
    if place == "top level":
        git(root, "rm", "-q", "--cached", "setr_lib/training/record.py")
        git(root, "commit", "-qm", "theirs", "--allow-empty")
    else:
        root = checkout / ".venv" / "site-packages"
        shutil.copytree(checkout / "setr_lib", root / "setr_lib")
        if place == "empty .git":
            (root / ".git").mkdir()
    assert git_commit(root) == "unknown"


@pytest.mark.parametrize("above", [False, True])
def test_settings_of_a_repository_start_no_program(checkout, above):
    """Neither those of a folder above the package, nor those of its own checkout."""
    trap, ran = checkout / "trap.sh", checkout / "ran"
    trap.write_text(f"#!/bin/sh\ntouch {ran}\n")
    trap.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(trap))
    root = checkout
    if above:
        root = checkout / "site"
        shutil.copytree(checkout / "setr_lib", root / "setr_lib")
    git_commit(root)
    assert not ran.exists()
    git(checkout, "status")
    assert ran.exists(), "the trap works"


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"[]", b'"a"', b"null"])
def test_damaged_records_and_logs_are_named(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"record\.json "):
        load_record(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + content + b"\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2,"):
        load_log(tmp_path)


@pytest.mark.parametrize("line", [b"{}", b'{"step": "3"}', b'{"loss": 1}'])
def test_a_line_without_a_step_and_evaluations_that_are_no_list_are_named(tmp_path, line):
    (tmp_path / "record.json").write_bytes(b'{"evaluations": []}')
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2, lacks step"):
        load_log(tmp_path, ("step",))
    for found in (b"3", b'"x"', b"null", b"{}"):
        (tmp_path / "record.json").write_bytes(b'{"evaluations": ' + found + b"}")
        with pytest.raises(ValueError, match=r"record\.json is damaged: its evaluations are"):
            load_record(tmp_path)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "gbk", "utf-8"])
def test_what_is_said_never_fails_for_the_consoles_letters(monkeypatch, encoding):
    """Windows gives redirected output one code page."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding))
    say("road 道路 ü")
    sys.stdout.flush()
    said = raw.getvalue().decode(encoding)
    assert "road" in said and ("道路" in said or r"\u9053\u8def" in said)
