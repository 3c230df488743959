"""Where images and masks lie: a plain pair of folders, CSV lists, and the published data sets' own trees."""

from __future__ import annotations

import csv
import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

Part = Literal["train", "val", "test"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm"})
"""File names that count as images and masks, in lower or upper case; anything else in a folder is ignored."""


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        id: the pair's name, unique within its layout.
        image: the image's file.
        mask: the mask's file. One of the two may be missing; :func:`cyqd.sam.masks.check` reports it.
    """

    id: str
    image: Path
    mask: Path


class Layout(ABC):
    """A set of pairs on disk; reading nothing until it is asked for them."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What errors call it."""

    @abstractmethod
    def find(self) -> Iterable[Pair]:
        """Find the pairs, in any order.

        Raises:
            FileNotFoundError: if a folder or list is missing.
        """

    def pairs(self) -> list[Pair]:
        """Return the pairs, sorted by id.

        Raises:
            FileNotFoundError: if a folder or list is missing.
            ValueError: if there is no pair, or two have one id.
        """
        found = sorted(self.find())
        if not found:
            raise ValueError(f"{self.name}: there are no images")
        for pair, after in pairwise(found):
            if pair.id == after.id:
                raise ValueError(f"{self.name}: {pair.id} comes twice, as {pair.image} and as {after.image}")
        return found


class Folder(Layout):
    """Images in one folder and masks of the same names in another; endings may differ, subfolders are searched.

    ::

        root/images/heron.jpg
        root/masks/heron.png

    Args:
        root: the folder that both lie in.
        images: the images' folder within it.
        masks: the masks' folder within it.
    """

    def __init__(self, root: Path, images: str = "images", masks: str = "masks") -> None:
        self.root, self.images, self.masks = Path(root), images, masks

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.root)

    def find(self) -> Iterable[Pair]:
        """See :meth:`Layout.find`."""
        return _matched(self.root / self.images, self.root / self.masks)


class Listed(Layout):
    """Pairs that a CSV file lists, as in the data packs of Conv-LoRA (``train.csv``, ``val.csv``, ``test.csv``).

    ::

        root/train.csv        image,label
                              images/heron.jpg,masks/heron.png

    Args:
        root: the folder that the file lies in and its paths start from.
        file: the list.
        image: the column of images; a pair's id is its path here, without the ending.
        mask: the column of masks.
    """

    def __init__(self, root: Path, file: str = "train.csv", *, image: str = "image", mask: str = "label") -> None:
        self.root, self.file, self.columns = Path(root), file, (image, mask)

    @property
    def name(self) -> str:
        """The list."""
        return str(self.root / self.file)

    def find(self) -> Iterable[Pair]:
        """See :meth:`Layout.find`.

        Raises:
            FileNotFoundError: if there is no list.
            ValueError: if the list lacks a column, or a row a path.
        """
        if not (self.root / self.file).is_file():
            raise FileNotFoundError(f"there is no list {self.name}")
        with (self.root / self.file).open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if missing := set(self.columns) - set(rows.fieldnames or ()):
                raise ValueError(f"{self.name}: no column {sorted(missing)[0]!r}; it has {rows.fieldnames}")
            for row in rows:
                image, mask = (row[column] for column in self.columns)
                if not image or not mask:
                    raise ValueError(f"{self.name}, line {rows.line_num}: needs an image and a mask, got {row}")
                yield Pair(Path(image).with_suffix("").as_posix(), self.root / image, self.root / mask)


class _Published(Layout):
    """A published data set, by its parts for training, validation and testing.

    What is not published is divided by a hash of the ids, so that the same file names give the same division.

    Args:
        root: the folder in which the data set's tree lies.
        split: which part.
    """

    validation: float = 0.1
    """Share of the training part that is kept for validation where none is published."""

    def __init__(self, root: Path, split: Part) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"{type(self).__name__}: split must be train, val or test, got {split!r}")
        self.root, self.split = Path(root), split

    @property
    def name(self) -> str:
        """The data set, part and folder."""
        return f"{type(self).__name__} ({self.split}, {self.root})"

    def _carved(self, pairs: Iterable[Pair]) -> Iterable[Pair]:
        """Return training or validation pairs out of the published training part."""
        validation, training = _divided(pairs, self.validation)
        return validation if self.split == "val" else training


class Camouflage(_Published):
    """COD10K and CAMO for training, CAMO for testing; 10 % of the training pairs are kept for validation.

    Either as SINet's repository publishes them together (4040 training, 250 test pairs)::

        root/TrainDataset/Imgs/COD10K-CAM-1-Aquatic-1-BatFish-1.jpg    camourflage_00001.jpg
        root/TrainDataset/GT/COD10K-CAM-1-Aquatic-1-BatFish-1.png      camourflage_00001.png
        root/TestDataset/CAMO/Imgs/camourflage_00012.jpg
        root/TestDataset/CAMO/GT/camourflage_00012.png

    or as their authors publish them, side by side::

        root/COD10K-v3/Train/Image/COD10K-CAM-1-Aquatic-1-BatFish-1.jpg
        root/COD10K-v3/Train/GT_Object/COD10K-CAM-1-Aquatic-1-BatFish-1.png
        root/CAMO-V.1.0-CVIU2019/Images/Train/camourflage_00001.jpg    (Test/camourflage_00012.jpg)
        root/CAMO-V.1.0-CVIU2019/GT/camourflage_00001.png

    Of COD10K only the images with a camouflaged object (``COD10K-CAM-…``) are taken. The empty masks of the others
    say nothing to the paper's score.
    """

    def find(self) -> Iterable[Pair]:
        """See :meth:`Layout.find`."""
        camo = self.root / "CAMO-V.1.0-CVIU2019"
        if self.split == "test":
            if camo.exists():
                return _matched(camo / "Images/Test", camo / "GT", shared=True)
            return _matched(self.root / "TestDataset/CAMO/Imgs", self.root / "TestDataset/CAMO/GT")
        return self._carved(self._training(camo))

    def _training(self, camo: Path) -> Iterator[Pair]:
        if not camo.exists():
            yield from _matched(self.root / "TrainDataset/Imgs", self.root / "TrainDataset/GT")
            return
        cod10k = self.root / "COD10K-v3/Train"
        yield from _matched(cod10k / "Image", cod10k / "GT_Object", prefix="COD10K-CAM-", shared=True)
        yield from _matched(camo / "Images/Train", camo / "GT", shared=True)


class Polyp(_Published):
    """Kvasir-SEG and CVC-ClinicDB in PraNet's division: 1450 pairs for training, 100 and 62 for testing.

    10 % of the training pairs are kept for validation. ::

        root/TrainDataset/image/1.png               (images/ and mask/, as in some copies, will do)
        root/TrainDataset/masks/1.png
        root/TestDataset/Kvasir/images/cju0qkwl35piu0993l0dewei2.png
        root/TestDataset/Kvasir/masks/cju0qkwl35piu0993l0dewei2.png
        root/TestDataset/CVC-ClinicDB/images/14.png
        root/TestDataset/CVC-ClinicDB/masks/14.png
    """

    def find(self) -> Iterable[Pair]:
        """See :meth:`Layout.find`."""
        if self.split != "test":
            return self._carved(_matched_either(self.root / "TrainDataset"))
        tests = (self.root / "TestDataset" / name for name in ("Kvasir", "CVC-ClinicDB"))
        return (pair for folder in tests for pair in _matched_either(folder))


class ISIC2017(_Published):
    """ISIC 2017, part 1 (lesion segmentation), with its own division: 2000, 150 and 600 pairs.

    ::

        root/ISIC-2017_Training_Data/ISIC_0000000.jpg       (ISIC_0000000_superpixels.png is ignored)
        root/ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png
        root/ISIC-2017_Validation_Data/…                    root/ISIC-2017_Validation_Part1_GroundTruth/…
        root/ISIC-2017_Test_v2_Data/…                       root/ISIC-2017_Test_v2_Part1_GroundTruth/…
    """

    def find(self) -> Iterable[Pair]:
        """See :meth:`Layout.find`."""
        part = {"train": "Training", "val": "Validation", "test": "Test_v2"}[self.split]
        images = self.root / f"ISIC-2017_{part}_Data"
        masks = self.root / f"ISIC-2017_{part}_Part1_GroundTruth"
        return _matched(images, masks, ending="_segmentation", suffixes=frozenset({".jpg"}))


class LeafDisease(_Published):
    """The leaf disease segmentation data set of 588 pairs, which publishes no division.

    By a hash of the id, 20 % of the pairs are for testing, and 10 % of the rest for validation. The augmented
    copies (``aug_data``) that come with it are left alone: they would lead test images into training. ::

        root/data/images/00000.jpg                  (data/data/images/, as unpacked, will do)
        root/data/masks/00000.png
    """

    testing: float = 0.2

    def find(self) -> Iterable[Pair]:
        """See :meth:`Layout.find`."""
        inner = self.root / "data/data"
        pairs = _matched_either(inner if inner.exists() else self.root / "data")
        testing, rest = _divided(pairs, self.testing)
        return testing if self.split == "test" else self._carved(rest)


def _divided(pairs: Iterable[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Take a share of the pairs, as a hash of their ids orders them; return it and the rest."""
    ordered = sorted(pairs, key=lambda pair: hashlib.sha256(pair.id.encode()).digest())
    taken = round(share * len(ordered))
    return ordered[:taken], ordered[taken:]


def _matched_either(folder: Path) -> Iterator[Pair]:
    """Match images and masks whose folders are called in the singular or the plural."""
    images, masks = ((folder / one, folder / f"{one}s") for one in ("image", "mask"))
    return _matched(*(one if one.exists() else many for one, many in (images, masks)))


def _matched(
    images: Path,
    masks: Path,
    *,
    prefix: str = "",
    ending: str = "",
    suffixes: frozenset[str] = SUFFIXES,
    shared: bool = False,
) -> Iterator[Pair]:
    """Match the images of a folder with masks that are called as they are.

    Args:
        images: folder of images.
        masks: folder of masks.
        prefix: only images whose name starts so.
        ending: what masks have behind the images' name, in lower or upper case.
        suffixes: of images.
        shared: the masks' folder also holds those of images that are no part of this.

    Raises:
        FileNotFoundError: if one of the folders is missing.
    """
    for folder in images, masks:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}; see docs/tasks/segmentation.md for the layouts")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _visible(masks):
        if path.suffix.lower() in SUFFIXES and path.stem.lower().endswith(ending):
            key = path.relative_to(masks).with_name(path.stem[: len(path.stem) - len(ending)]).as_posix()
            found[key].append(path)
    for path in _visible(images):
        if path.suffix.lower() in suffixes and path.name.startswith(prefix):
            key = path.relative_to(images).with_suffix("").as_posix()
            candidates = found.pop(key, []) or [masks / f"{key}{ending}.png"]
            if len(candidates) > 1:
                raise ValueError(f"{images}: {key} has two masks, {candidates[0]} and {candidates[1]}")
            yield Pair(key, path, candidates[0])
    for key, orphans in () if shared else found.items():
        yield Pair(key, images / f"{key}.jpg", orphans[0])


def _visible(folder: Path) -> Iterator[Path]:
    """Return what lies in a folder and its subfolders, but for hidden files, such as macOS leaves in archives."""
    return (path for path in folder.rglob("*") if not path.name.startswith("."))
