"""The download, against a server on this machine: checked, and whole or not at all."""

import dataclasses
import functools
import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from setr_lib import load_dataset
from setr_lib.download import ADE20K, ADE20K_TEST, CAMVID, download, fetch_archive, labels_digest

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
        threading.Thread(target=running.serve_forever, daemon=True).start()
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
    fetch_archive(archive, tmp_path / "data" / "camvid", progress=False)
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
        ({"commit": "f" * 40}, ValueError, f"holds the commit {COMMIT}, expected ffff"),
        ({"counts": {"train": 3, "val": 2}}, ValueError, "has 2 images in train, not 3"),
        ({"labels": {"val": "00"}}, ValueError, "labels of val .* have the digest .*, expected 00"),
        ({"counts": {"test": 1}}, ValueError, "data.zip is not what it .*no folder .*camvid/test"),
        ({"sha1": "ab"}, ValueError, "data.zip has the SHA-1 [0-9a-f]{40}, expected ab"),
        ({"url": "http://127.0.0.1:9/x.zip"}, ConnectionError, "cannot fetch http://127.0.0.1:9"),
    ],
)
def test_another_archive_is_refused_whole(archive, tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        fetch_archive(dataclasses.replace(archive, **change), tmp_path / "data" / "camvid", False)
    assert list((tmp_path / "data").iterdir()) == []  # nothing, not even a temporary folder


def test_a_missing_archive_is_named(archive, tmp_path):
    wrong = dataclasses.replace(archive, url=archive.url + ".gone")
    with pytest.raises(ConnectionError, match=r"data.zip.gone .*404"):
        fetch_archive(wrong, tmp_path / "data" / "camvid", False)


def test_a_damaged_archive_is_refused(archive, server, tmp_path):
    file = server[0] / "data.zip"
    content = bytearray(file.read_bytes())
    place = content.index(b"IDAT") + 6
    content[place] ^= 0xFF  # one byte inside an image
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False)
    file.write_bytes(content[:500])
    with pytest.raises(ValueError, match="is damaged"):
        fetch_archive(archive, tmp_path / "data" / "camvid", False)
    assert list((tmp_path / "data").iterdir()) == []


def test_no_path_leads_outside(archive, server, tmp_path):
    bad = [("Tutorial-0123/CamVid/train/../../../../evil.png", b"x"), ("../evil.png", b"x")]
    make_zip(server[0] / "data.zip", extra=bad)
    fetch_archive(archive, tmp_path / "data" / "camvid", False)
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
    fetch_archive(small, tmp_path / "data" / small.target, progress=False)
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
    fetch_archive(small, tmp_path / "data" / small.target, progress=False)
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
        fetch_archive(archive, tmp_path / "data" / "camvid", False)
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
    from setr_lib.records import ROOT

    if not (ROOT / "data" / "camvid").is_dir():
        pytest.skip("CamVid is not in data/camvid")
    for split, digest in CAMVID.labels.items():
        pairs = load_dataset("camvid", split, ROOT / "data").pairs
        assert labels_digest([label for _, label in pairs]) == digest
