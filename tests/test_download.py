"""The download, against a server on this machine: checked, and whole or not at all."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

import setr_lib.data.download as module
from setr_lib import load_dataset
from setr_lib.data.download import (
    ADE20K,
    ADE20K_TEST,
    CAMVID,
    download,
    fetch_archive,
    labels_digest,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def make_zip(path, splits=("train", "val"), commit=COMMIT, label=3, extra=()):
    """A repository like the SegNet tutorial's, with two images per split and other folders."""
    with zipfile.ZipFile(path, "w") as file:
        file.comment = commit.encode()
        file.writestr("Tutorial-0123/README.md", "not data")
        file.writestr("Tutorial-0123/Models/train/x.png", b"not data either")
        file.writestr("Tutorial-0123/CamVid/train.txt", "a list")
        for split in splits:
            for name in ("a", "b"):
                base = f"Tutorial-0123/CamVid/{split}"
                file.writestr(f"{base}/{name}.png", png(np.zeros((6, 8, 3), np.uint8)))
                file.writestr(f"{base}annot/{name}.png", png(np.full((6, 8), label, np.uint8)))
        for name, content in extra:
            file.writestr(name, content)


@pytest.fixture
def server(tmp_path):
    """Serves the folder `tmp_path/www` on a free port of this machine."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def archive(server, tmp_path):
    """The right archive, and what is expected of it."""
    folder, address = server
    make_zip(folder / "data.zip")
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png(np.full((6, 8), 3, np.uint8)))
    digest = labels_digest([tmp_path / "a.png", tmp_path / "b.png"])
    counts = {"train": 2, "val": 2}
    return dataclasses.replace(
        CAMVID,
        url=f"{address}/data.zip",
        commit=COMMIT,
        counts=counts,
        labels={"train": digest, "val": digest},
    )


def test_only_the_data_folder_is_unpacked(archive, tmp_path):
    fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    files = {str(p.relative_to(tmp_path / "data")) for p in (tmp_path / "data").rglob("*.*")}
    assert files == {
        f"camvid/{split}{kind}/{name}.png"
        for split in ("train", "val")
        for kind in ("", "annot")
        for name in ("a", "b")
    }
    assert len(load_dataset("camvid", "train", tmp_path / "data")) == 2


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"commit": "f" * 40}, ValueError, f"holds the commit .{COMMIT}., expected ffff"),
        ({"counts": {"train": 3, "val": 2}}, ValueError, "has 2 images in train, not 3"),
        ({"labels": {"val": "00"}}, ValueError, "labels of val .* have the digest .*, expected 00"),
        ({"counts": {"test": 1}}, ValueError, "data.zip is not what it .*no folder .*camvid/test"),
        ({"sha1": "ab"}, ValueError, "data.zip has the SHA-1 [0-9a-f]{40}, expected ab"),
        ({"url": "http://127.0.0.1:9/x.zip"}, ConnectionError, "cannot fetch http://127.0.0.1:9"),
    ],
)
def test_another_archive_is_refused_whole(archive, tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        fetch_archive(
            dataclasses.replace(archive, **change),
            tmp_path / "data" / "camvid",
            False,
            loopback=True,
        )
    assert list((tmp_path / "data").iterdir()) == []  # nothing, not even a temporary folder


def test_a_missing_archive_is_named(archive, tmp_path):
    wrong = dataclasses.replace(archive, url=archive.url + ".gone")
    with pytest.raises(ConnectionError, match=r"data.zip.gone .*404"):
        fetch_archive(wrong, tmp_path / "data" / "camvid", False, loopback=True)


def test_a_damaged_archive_is_refused(archive, server, tmp_path):
    file = server[0] / "data.zip"
    content = bytearray(file.read_bytes())
    place = content.index(b"IDAT") + 6
    content[place] ^= 0xFF  # one byte inside an image
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    file.write_bytes(content[:500])
    with pytest.raises(ValueError, match="is damaged"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_no_path_leads_outside(archive, server, tmp_path):
    bad = [("Tutorial-0123/CamVid/train/../../../../evil.png", b"x"), ("../evil.png", b"x")]
    make_zip(server[0] / "data.zip", extra=bad)
    fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert not list(tmp_path.rglob("evil.png"))


def test_ade20k_keeps_its_layout(server, tmp_path):
    """The challenge's zip becomes the folder that `load_dataset` reads; other files stay out."""
    zipped = server[0] / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(zipped, "w") as file:
        for part in ("training", "validation"):
            top = "ADEChallengeData2016"
            file.writestr(f"{top}/images/{part}/ADE_1.jpg", png(np.zeros((6, 8, 3), np.uint8)))
            file.writestr(f"{top}/annotations/{part}/ADE_1.png", png(np.ones((6, 8), np.uint8)))
        file.writestr(f"{top}/objectInfo150.txt", "names")
    small = dataclasses.replace(
        ADE20K,
        url=f"{server[1]}/{zipped.name}",
        sha1=hashlib.sha1(zipped.read_bytes()).hexdigest(),
        counts={"train": 1, "val": 1},
    )
    fetch_archive(small, tmp_path / "data" / small.target, progress=False, loopback=True)
    image, label = load_dataset("ade20k", "val", tmp_path / "data")[0]
    assert image.shape == (6, 8, 3) and (label == 0).all()
    assert not list(tmp_path.rglob("objectInfo150.txt"))


def test_the_test_images_of_ade20k_have_no_labels(server, tmp_path):
    zipped = server[0] / "release_test.zip"
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("release_test/testing/ADE_test_1.jpg", png(np.zeros((6, 8, 3), np.uint8)))
    sha1 = hashlib.sha1(zipped.read_bytes()).hexdigest()
    small = dataclasses.replace(
        ADE20K_TEST, url=f"{server[1]}/{zipped.name}", sha1=sha1, counts={"test": 1}
    )
    fetch_archive(small, tmp_path / "data" / small.target, progress=False, loopback=True)
    assert not load_dataset("ade20k", "test", tmp_path / "data").labelled


@pytest.mark.parametrize(
    "name, words",
    [
        ("cityscapes", ["registered", "cityscapes-dataset.com", "gtFine/train/", "elsewhere/city"]),
        ("pascal_context", ["VOCtrainval_03-May-2010.tar", "Flickr", "labels.txt", "elsewhere/p"]),
        ("pascal_context_59", ["check pascal_context_59"]),
    ],
)
def test_what_cannot_be_fetched_is_explained(name, words):
    """Where it is, under which terms, and where it belongs."""
    with pytest.raises(ValueError) as error:
        download(name, "elsewhere")
    assert all(word in str(error.value) for word in words)


def test_an_archive_with_an_image_too_many_is_refused(archive, server, tmp_path):
    extra = [("Tutorial-0123/CamVid/val/c.png", png(np.zeros((6, 8, 3), np.uint8)))]
    make_zip(server[0] / "data.zip", extra=extra)
    with pytest.raises(ValueError, match="data.zip is not what it .*val/c.png has no label"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_data_that_is_there_stays(tmp_path):
    (tmp_path / "camvid").mkdir()
    with pytest.raises(FileExistsError, match="camvid is there already; remove it first"):
        download("camvid", tmp_path)
    with pytest.raises(ValueError, match="did you mean camvid"):
        download("camvid2", tmp_path)


def test_camvid_is_fetched_at_one_commit():
    assert CAMVID.commit in CAMVID.url and len(CAMVID.commit) == 40
    assert CAMVID.counts == {"train": 367, "val": 101, "test": 233}


def test_the_expected_digests_are_those_of_the_data():
    """Where CamVid is at hand (data/camvid), its labels have the digests that are expected."""
    from setr_lib.training.record import ROOT

    if not (ROOT / "data" / "camvid").is_dir():
        pytest.skip("CamVid is not in data/camvid")
    for split, digest in CAMVID.labels.items():
        pairs = load_dataset("camvid", split, ROOT / "data").pairs
        assert labels_digest([label for _, label in pairs]) == digest


@pytest.fixture
def speaker(archive, server):
    """A server that says what it is told, byte for byte, and the archive that it should have."""
    content = (server[0] / "data.zip").read_bytes()
    asked, answers = [], []

    class Speaker(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(65536).decode())
            answer = answers.pop(0)
            for piece in answer(asked[-1]) if callable(answer) else [answer]:
                self.request.sendall(piece)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

        def handle_error(self, *args):
            pass  # the other side has hung up

    with Server(("127.0.0.1", 0), Speaker) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{running.server_address[1]}/data.zip"
        yield dataclasses.replace(archive, url=url), content, asked, answers
        running.shutdown()


def head(length, status="200 OK", *more):
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {length}", *more, "", ""]).encode()


def rest(content):
    """Answers a request for a range."""

    def answer(request):
        start = int(re.search(r"Range: bytes=(\d+)-", request)[1])
        where = f"Content-Range: bytes {start}-{len(content) - 1}/{len(content)}"
        yield head(len(content) - start, "206 Partial Content", where) + content[start:]

    return answer


@pytest.mark.parametrize("way", ["range", "whole", "finished"])
def test_the_next_try_goes_on_where_the_last_one_stopped(speaker, tmp_path, way):
    """Also with a server that knows no ranges, and where everything had arrived."""
    archive, content, asked, answers = speaker
    target = tmp_path / "data" / "camvid"
    if way == "finished":
        (target.parent / ".camvid.part").mkdir(parents=True)
        (target.parent / ".camvid.part" / "archive.zip").write_bytes(content)
        answers += [head(0, "416 Range Not Satisfiable"), head(len(content)) + content]
    else:
        answers += [head(len(content)) + content[:1000]]
        with pytest.raises(ConnectionError, match=f"after 1000 of {len(content)} bytes"):
            fetch_archive(archive, target, False, loopback=True)
        assert not target.exists() and (target.parent / ".camvid.part").is_dir()
        answers += [rest(content) if way == "range" else head(len(content)) + content]
    fetch_archive(archive, target, False, loopback=True)
    assert [p.name for p in target.parent.iterdir()] == ["camvid"] and len(asked) >= 2
    assert len(load_dataset("camvid", "train", target.parent)) == 2


FETCH = """
import dataclasses, sys
from pathlib import Path
from setr_lib.data.download import CAMVID, fetch_archive
_, url, target, commit = sys.argv
archive = dataclasses.replace(
    CAMVID, url=url, commit=commit, counts={"train": 2, "val": 2}, labels={}
)
fetch_archive(archive, Path(target), False, loopback=True)
"""


def test_one_process_at_a_time_and_a_killed_one_leaves_nothing_behind(speaker, tmp_path):
    """A second process is told of the first; after kill -9 the next one takes over and goes on."""
    archive, content, _, answers = speaker
    target, arrived, end = tmp_path / "data" / "camvid", threading.Event(), threading.Event()

    def begin(_):
        yield head(len(content)) + content[:1000]
        arrived.set()
        end.wait(60)

    answers += [begin, rest(content)]
    call = [sys.executable, "-c", FETCH, archive.url, str(target), COMMIT]
    first = subprocess.Popen(call)
    assert arrived.wait(60)
    zipped = target.parent / ".camvid.part" / "archive.zip"
    while first.poll() is None and not (zipped.is_file() and zipped.stat().st_size):
        time.sleep(0.02)
    with pytest.raises(FileExistsError, match="another process is fetching into .*camvid.part"):
        fetch_archive(archive, target, False, loopback=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    end.set()
    fetch_archive(archive, target, False, loopback=True)
    assert [p.name for p in target.parent.iterdir()] == ["camvid"]


@pytest.mark.parametrize(
    "answer, words",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nx", "abc"),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 70000, "line"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "zz|IncompleteRead"),
        (b"", "closed connection"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x.zip\r\n\r\n", "ftp://.* is not https"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://example.org/x\r\n\r\n", "http://ex.* not https"),
    ],
)
def test_whatever_a_server_says_is_one_error(speaker, tmp_path, answer, words):
    archive, _, _, answers = speaker
    answers += [answer]
    with pytest.raises(ConnectionError, match=f"data.zip .*(?:{words})"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_only_https_is_fetched(archive, tmp_path):
    with pytest.raises(ConnectionError, match=r"data.zip is not https"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False)
    assert all(a.url.startswith("https://") for a in module.ARCHIVES.values())


def test_a_server_that_drips_is_given_up(speaker, tmp_path, monkeypatch):
    archive, content, _, answers = speaker
    monkeypatch.setattr(module, "PATIENCE", 0.3)

    def drip(_):
        yield head(len(content))
        for byte in content:
            yield bytes([byte])
            time.sleep(0.02)

    answers += [drip]
    with pytest.raises(ConnectionError, match="sent .* bytes in .* seconds; try again later"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)


def test_an_endless_archive_is_given_up(speaker, tmp_path):
    archive, _, _, answers = speaker
    answers += [lambda _: iter([b"HTTP/1.1 200 OK\r\n\r\n", *[bytes(4096)] * 1000])]
    small = dataclasses.replace(archive, most=100_000)
    with pytest.raises(ValueError, match="data.zip has more than 100000 bytes"):
        fetch_archive(small, tmp_path / "data" / "camvid", False, loopback=True)
    assert list((tmp_path / "data").iterdir()) == []


TOP = "Tutorial-0123/CamVid/train"
PIXELS = png(np.zeros((6, 8, 3), np.uint8))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["a.png", "A.PNG", "C:evil.png", "..\\evil.png", "x\x1b[2J.png"])
def test_a_picture_that_could_replace_another_file_is_refused(archive, server, tmp_path, name):
    make_zip(server[0] / "data.zip", extra=[(f"{TOP}/{name}", PIXELS)])
    with pytest.raises(ValueError, match="(?i)data.zip is not what it should be: .*png"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_only_pictures_are_unpacked(archive, server, tmp_path):
    extra = [(f"{TOP}/{name}", b"import os") for name in ("torch.py", ".bashrc", "notes.txt")]
    make_zip(server[0] / "data.zip", extra=extra)
    fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert {p.suffix for p in (tmp_path / "data").rglob("*") if p.is_file()} == {".png"}


@pytest.mark.parametrize("kind", ["encrypted", "compression", "huge"])
def test_members_that_cannot_be_unpacked_are_named(archive, server, tmp_path, kind):
    """What the index says of the first picture is changed: 4 GB, a password, an unknown method."""
    file = server[0] / "data.zip"
    content = bytearray(file.read_bytes())
    place = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02", content.rindex(b"a list")))
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(f"{TOP}/a.png".encode()))
    assert place <= entry
    start, value = {"encrypted": (8, b"\1\0"), "compression": (10, b"\x63\0")}.get(
        kind, (24, b"\0\0\0\xf0")
    )
    content[entry + start : entry + start + len(value)] = value
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data.zip is (damaged|not what it should be)"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_is_no_matter_of_the_network(archive, tmp_path, monkeypatch):
    def full(path, mode="r", *args):
        if "w" in mode or mode == "ab":
            raise OSError(28, os.strerror(28))
        return open(path, mode, *args)

    monkeypatch.setattr(module, "open", full, raising=False)
    with pytest.raises(OSError, match=r"No space left.*archive.zip") as raised:
        fetch_archive(archive, tmp_path / "data" / "camvid", False, loopback=True)
    assert not isinstance(raised.value, ConnectionError)
    assert list((tmp_path / "data").iterdir()) == []
