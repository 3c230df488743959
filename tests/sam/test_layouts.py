"""Every published tree is read, on stand-ins made here; images meet their own masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from cyqd.sam.layouts import ISIC2017, Camouflage, Folder, Layout, LeafDisease, Listed, Polyp


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def ids(layout: Layout) -> list[str]:
    return [pair.id for pair in layout.pairs()]


def files(layout: Layout, root: Path) -> dict[str, tuple[str, str]]:
    """Image and mask by id, relative to the root."""
    return {
        pair.id: (pair.image.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix())
        for pair in layout.pairs()
    }


def divided(parts: Iterable[list[str]]) -> list[str]:
    """All ids, after checking that no two parts share one."""
    together = [name for part in parts for name in part]
    assert len(together) == len(set(together))
    return sorted(together)


def test_a_plain_folder_with_any_endings_and_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.JPG", "images/a.png", "images/sub/a.jpeg", "images/Thumbs.db", "images/._b.JPG")
    touch(tmp_path, "masks/b.png", "masks/a.gif", "masks/sub/a.tif", "masks/notes.txt")
    assert files(Folder(tmp_path), tmp_path) == {
        "a": ("images/a.png", "masks/a.gif"),
        "b": ("images/b.JPG", "masks/b.png"),
        "sub/a": ("images/sub/a.jpeg", "masks/sub/a.tif"),
    }


def test_dots_in_names_are_no_endings(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.5.jpg", "masks/1.5.png", "images/1.6.jpg", "masks/1.6.png")
    assert ids(Folder(tmp_path)) == ["1.5", "1.6"]


def test_folders_may_be_called_otherwise(tmp_path: Path) -> None:
    touch(tmp_path, "Imgs/a.jpg", "GT/a.png")
    assert ids(Folder(tmp_path, "Imgs", "GT")) == ["a"]


def test_missing_partners_are_kept_for_the_check(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/b.png")
    pairs = Folder(tmp_path).pairs()
    assert [(pair.id, pair.image.exists(), pair.mask.exists()) for pair in pairs] == [
        ("a", True, False),
        ("b", False, True),
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["images/a.jpg"], "there is no folder .*masks"),
        (["masks/a.png"], "there is no folder .*images"),
        (["images/a.txt", "masks/a.txt"], "there are no images"),
        (["images/a.jpg", "masks/a.png", "masks/a.gif"], "a has two masks"),
        (["images/a.jpg", "images/a.png", "masks/a.png"], "a comes twice"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(paths: list[str], message: str, tmp_path: Path) -> None:
    touch(tmp_path, *paths)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Folder(tmp_path).pairs()


def test_a_list(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(
        "id,image,label\n7,images/a.jpg,masks/a_mask.png\n8,images/b.jpg,masks/b.png\n"
    )
    assert files(Listed(tmp_path, "val.csv"), tmp_path) == {
        "images/a": ("images/a.jpg", "masks/a_mask.png"),
        "images/b": ("images/b.jpg", "masks/b.png"),
    }
    with pytest.raises(ValueError, match=r"val\.csv: no column 'mask'"):
        Listed(tmp_path, "val.csv", mask="mask").pairs()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_as_spreadsheets_write_it(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image,label\nimages/ä.jpg,masks/ä.png\n", encoding=encoding)
    assert ids(Listed(tmp_path)) == ["images/ä"]


@pytest.mark.parametrize("row", ["images/b.jpg,", "images/b.jpg", ",masks/b.png"])
def test_a_row_that_lacks_a_path_is_named(row: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"image,label\nimages/a.jpg,masks/a.png\n{row}\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 3: needs an image and a mask"):
        Listed(tmp_path).pairs()


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no list .*val\.csv"):
        Listed(tmp_path, "val.csv").pairs()


COD = [f"COD10K-CAM-1-Aquatic-1-BatFish-{i}" for i in range(300)]
CAMO = [f"camourflage_{i:05}" for i in range(100)]
CAMO_TEST = [f"camourflage_{i:05}" for i in range(100, 130)]


def camouflage_of_sinet(root: Path) -> None:
    for name in COD + CAMO:
        touch(root, f"TrainDataset/Imgs/{name}.jpg", f"TrainDataset/GT/{name}.png")
    for name in CAMO_TEST:
        touch(root, f"TestDataset/CAMO/Imgs/{name}.jpg", f"TestDataset/CAMO/GT/{name}.png")


def camouflage_of_its_authors(root: Path) -> None:
    for name in [*COD, "COD10K-NonCAM-1-Aquatic-1-BatFish-1"]:
        touch(root, f"COD10K-v3/Train/Image/{name}.jpg", f"COD10K-v3/Train/GT_Object/{name}.png")
    for names, part in ((CAMO, "Train"), (CAMO_TEST, "Test")):
        for name in names:
            touch(root, f"CAMO-V.1.0-CVIU2019/Images/{part}/{name}.jpg", f"CAMO-V.1.0-CVIU2019/GT/{name}.png")


@pytest.mark.parametrize("make", [camouflage_of_sinet, camouflage_of_its_authors])
def test_camouflage(make: object, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    train, val, test = (ids(Camouflage(tmp_path, split)) for split in ("train", "val", "test"))  # type: ignore[arg-type]
    assert divided([train, val]) == sorted(COD + CAMO)
    assert test == CAMO_TEST
    assert len(val) == 40
    assert all(pair.mask.exists() for pair in Camouflage(tmp_path, "train").pairs())


def test_the_division_of_camouflage_does_not_depend_on_the_layout(tmp_path: Path) -> None:
    camouflage_of_sinet(tmp_path / "one")
    camouflage_of_its_authors(tmp_path / "two")
    assert ids(Camouflage(tmp_path / "one", "val")) == ids(Camouflage(tmp_path / "two", "val"))


@pytest.mark.parametrize(("images", "masks"), [("image", "masks"), ("images", "mask")])
def test_polyps(images: str, masks: str, tmp_path: Path) -> None:
    names = [str(i) for i in range(200)]
    for name in names:
        touch(tmp_path, f"TrainDataset/{images}/{name}.png", f"TrainDataset/{masks}/{name}.png")
    for name in "Kvasir/images/cju0.png", "CVC-ClinicDB/images/14.png", "ETIS-LaribPolypDB/images/1.png":
        touch(tmp_path, *(f"TestDataset/{name.replace('images', part)}" for part in ("images", "masks")))
    train, val, test = (ids(Polyp(tmp_path, split)) for split in ("train", "val", "test"))  # type: ignore[arg-type]
    assert divided([train, val]) == sorted(names)
    assert len(val) == 20
    assert test == ["14", "cju0"]


def test_skin_lesions(tmp_path: Path) -> None:
    for number, part in enumerate(("Training", "Validation", "Test_v2")):
        name = f"ISIC_000000{number}"
        touch(tmp_path, f"ISIC-2017_{part}_Data/{name}.jpg", f"ISIC-2017_{part}_Data/{name}_superpixels.png")
        touch(tmp_path, f"ISIC-2017_{part}_Part1_GroundTruth/{name}_segmentation.png")
    assert files(ISIC2017(tmp_path, "test"), tmp_path) == {
        "ISIC_0000002": (
            "ISIC-2017_Test_v2_Data/ISIC_0000002.jpg",
            "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0000002_segmentation.png",
        )
    }
    assert ids(ISIC2017(tmp_path, "train")) == ["ISIC_0000000"]
    assert ids(ISIC2017(tmp_path, "val")) == ["ISIC_0000001"]


@pytest.mark.parametrize("folder", ["data", "data/data"])
def test_leaves(folder: str, tmp_path: Path) -> None:
    names = [f"{i:05}" for i in range(588)]
    for name in names:
        touch(tmp_path, f"{folder}/images/{name}.jpg", f"{folder}/masks/{name}.png")
    touch(tmp_path, "aug_data/aug_data/images/00000.jpg", "aug_data/aug_data/masks/00000.png")
    parts = [ids(LeafDisease(tmp_path, split)) for split in ("train", "val", "test")]  # type: ignore[arg-type]
    assert divided(parts) == names
    assert [len(part) for part in parts] == [423, 47, 118]


def test_an_unknown_part_and_a_missing_tree_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train, val or test"):
        Polyp(tmp_path, "validation")  # type: ignore[arg-type]
    for kind in Camouflage, Polyp, ISIC2017, LeafDisease:
        layout = kind(tmp_path, "test")  # nothing is looked for until pairs are asked for
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            layout.pairs()
