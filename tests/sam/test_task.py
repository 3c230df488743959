"""Halves of a task's pairs, and what is reported of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyqd.sam.layouts import Folder
from cyqd.sam.task import Segmentation
from tests.sam.test_layouts import touch

NAMES = [f"p{i:02}" for i in range(21)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{part}/{name}.png" for part in ("images", "masks") for name in NAMES))
    touch(tmp_path, "other/images/t1.png", "other/masks/t1.png", "other/images/t2.png", "other/masks/t2.png")
    return tmp_path


def ids(task: Segmentation) -> tuple[list[str], list[str]]:
    first, second = ([pair.id for pair in task.problems(half)] for half in ("optimisation", "test"))  # type: ignore[arg-type]
    return first, second


def test_the_pairs_are_split_evenly_by_seed(root: Path) -> None:
    first, second = ids(Segmentation(Folder(root)))
    assert sorted(first + second) == NAMES
    assert (len(first), len(second)) == (11, 10)
    assert ids(Segmentation(Folder(root))) == (first, second)
    assert ids(Segmentation(Folder(root), split_seed=1))[0] != first


def test_a_test_part_is_the_test_half(root: Path) -> None:
    first, second = ids(Segmentation(Folder(root), test=Folder(root / "other")))
    assert sorted(first) == NAMES
    assert sorted(second) == ["t1", "t2"]


def test_limits_take_no_beginning_of_the_alphabet(root: Path) -> None:
    def limited(seed: int) -> tuple[list[str], list[str]]:
        arguments: dict[str, Any] = {"limit": 5, "split_seed": seed}
        first, _ = ids(Segmentation(Folder(root), test=Folder(root / "other"), **arguments))
        return first, ids(Segmentation(Folder(root / "other"), test=Folder(root), test_limit=5, split_seed=seed))[1]

    first, second = limited(0)
    assert first == second
    assert sorted(first) != NAMES[:5]
    assert limited(1)[0] != first


def test_what_lies_beyond_the_limit_is_kept_back(root: Path) -> None:
    whole, _ = ids(Segmentation(Folder(root)))
    for options, expected in (({}, whole[4:8]), ({"selection_limit": 2}, whole[4:6])):
        kept = Segmentation(Folder(root), limit=4, **options).problems("selection")
        assert [pair.id for pair in kept] == expected
    assert not Segmentation(Folder(root)).problems("selection")


def test_a_test_half_that_steers_is_refused(root: Path) -> None:
    (root / "linked/images").mkdir(parents=True)
    touch(root, "linked/masks/x.png", "linked/masks/y.png", "linked/images/y.png")
    (root / "linked/images/x.png").symlink_to(root / "images/p03.png")
    with pytest.raises(ValueError, match=r"folder: 1 images are in .*p03\.png"):
        ids(Segmentation(Folder(root), test=Folder(root / "linked")))


def test_limits_and_exclusions(root: Path) -> None:
    first, second = ids(Segmentation(Folder(root)))
    assert ids(Segmentation(Folder(root), limit=4, test_limit=3)) == (first[:4], second[:3])
    (root / "exclude.json").write_text(json.dumps({"folder": first[:2], "other": ["x"]}))
    assert ids(Segmentation(Folder(root), exclude=[root / "exclude.json"])) == (first[2:], second)
    (root / "exclude.json").write_text(json.dumps({"folder": first}))
    with pytest.raises(ValueError, match="no pair is left in the optimisation half"):
        ids(Segmentation(Folder(root), exclude=[root / "exclude.json"]))


def test_bad_pairs_are_left_out_before_the_split(root: Path) -> None:
    square = Image.fromarray(np.ones((4, 4), np.uint8))
    for name in NAMES[3:]:
        for part in "images", "masks":
            square.save(root / part / f"{name}.png")
    first, second = ids(Segmentation(Folder(root), skip_bad=True))
    assert sorted(first + second) == NAMES[3:]
    assert len(first) == len(second) == 9


def test_costly_measures_are_for_the_test_half() -> None:
    task = Segmentation(Folder(Path("nowhere")), measures=["mae", "s_measure"])
    assert task.measures == ("dice", "s_measure", "mae", "intersection", "union")
    assert task.measured("test") == task.measures
    assert task.measured("optimisation") == ("dice", "intersection", "union")


def test_the_data_sets_iou_follows_from_the_helpers() -> None:
    task = Segmentation(Folder(Path("nowhere")))
    assert task.derived({"dice": 0.5, "intersection": 0.1, "union": 0.4}) == {"dice": 0.5, "dataset_iou": 0.25}
    assert task.derived({"dice": 1.0, "intersection": 0.0, "union": 0.0}) == {"dice": 1.0, "dataset_iou": 1.0}
    assert task.derived({}) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a/b"}, "has no '/'"),
        ({"measures": ["dise"]}, "no measure 'dise'; there are"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"test_limit": 0}, "test_limit must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmentation(Folder(Path("nowhere")), **arguments)
