"""A segmentation task: image-mask pairs, split into an optimisation half and a test half, scored by mean IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

from cyqd.sam.layouts import Layout, Pair
from cyqd.sam.masks import check
from cyqd.training.splits import Split, excluded, halves, kept_back, shuffled

COSTLY = ("s_measure", "e_measure", "mae")
"""Measures that take long and are computed on the test half only."""

HELPERS = ("intersection", "union")
"""An image's pixels in intersection and union, in units of 2²⁸; their exact sums give the data set's IoU."""


class Segmentation:
    """A skill: pairs to score on. The score is the mean over images of the IoU at original size.

    Reported beside it are ``dice``, the mean Dice coefficient, and ``dataset_iou``, the images' summed
    intersections over their summed unions.

    Args:
        problems: the pairs. Without ``test`` they are split evenly; with it, all of them are the optimisation half.
        name: the task's name; by default the layout's class in lower case.
        test: the pairs of the test half, such as a data set's official test part.
        measures: reported beside the score: ``dice``, which always is, and on the test half ``s_measure``,
            ``e_measure`` and ``mae``.
        split_seed: seed of the even split, and of which pairs the limits take.
        limit: use at most this many pairs of the optimisation half, which is scored for every child.
        selection_limit: keep back at most this many of the pairs beyond ``limit``, for final rules to judge models
            on; as many as ``limit`` if not given.
        test_limit: use at most this many pairs of the test half.
        exclude: JSON files {task's name: [id, ...]} of pairs to leave out of the optimisation half; the halves
            themselves and the test half stay as they are.
        skip_bad: leave bad pairs out of both halves instead of stopping.

    Attributes:
        measures: names of all that is recorded beside the score, :data:`HELPERS` among them.
        image_size: side of the model's input, for which a pair is good or bad; :class:`cyqd.sam.SAMData` sets it.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        problems: Layout,
        *,
        name: str | None = None,
        test: Layout | None = None,
        measures: Sequence[str] = ("dice",),
        split_seed: int = 0,
        limit: int | None = None,
        selection_limit: int | None = None,
        test_limit: int | None = None,
        exclude: Sequence[Path] = (),
        skip_bad: bool = False,
    ) -> None:
        self.name = name or type(problems).__name__.lower()
        if "/" in self.name:
            raise ValueError(f"task {self.name}: a name has no '/', which separates it from a problem's id")
        if unknown := sorted(set(measures) - {"dice", *COSTLY}):
            raise ValueError(f"task {self.name}: no measure {unknown[0]!r}; there are {['dice', *COSTLY]}")
        limits = {"limit": limit, "selection_limit": selection_limit, "test_limit": test_limit}
        for key, number in limits.items():
            if number is not None and number < 1:
                raise ValueError(f"task {self.name}: {key} must be at least 1, got {number}")
        self.layouts = [problems] if test is None else [problems, test]
        self.measures = ("dice", *(name for name in COSTLY if name in measures), *HELPERS)
        self.split_seed = split_seed
        self.limits = limits
        self.exclude = list(exclude)
        self.skip_bad = skip_bad
        self.image_size = 1024

    @cached_property
    def pairs(self) -> list[list[Pair]]:
        """All pairs of each layout, bad ones included."""
        return [layout.pairs() for layout in self.layouts]

    def problems(self, split: Split) -> Sequence[Pair]:
        """Return the pairs of one split, in a fixed order; the selection split may be empty.

        Raises:
            FileNotFoundError: if a folder is missing.
            ValueError: if a half is empty, both halves hold one image, or ``exclude`` lists an id that does not
                exist.
        """
        return self._split[split]

    @cached_property
    def _split(self) -> dict[Split, Sequence[Pair]]:
        found = self.pairs
        left_out = excluded(self.exclude, self.name, {pair.id for pair in found[0]})
        if self.skip_bad:
            bad = check([*chain(*found)], image_size=self.image_size)
            found = [[pair for pair in pairs if pair not in bad] for pairs in found]
        seed = self.split_seed
        first, second = halves(found[0], seed) if len(found) == 1 else [shuffled(pairs, seed) for pairs in found]
        first = [pair for pair in first if pair.id not in left_out]
        second = second[: self.limits["test_limit"]]
        for half, pairs in {"optimisation": first, "test": second}.items():
            if not pairs:
                raise ValueError(f"task {self.name}: no pair is left in the {half} half")
        optimisation, selection = kept_back(first, self.limits["limit"], self.limits["selection_limit"])
        scored = {pair.image.resolve() for pair in second}
        if shared := [pair.image for pair in (*optimisation, *selection) if pair.image.resolve() in scored]:
            raise ValueError(
                f"task {self.name}: {len(shared)} images are in the optimisation half and in the test half, "
                f"such as {shared[0]}; what is reported must not be what steered"
            )
        return {"optimisation": optimisation, "selection": selection, "test": second}

    def measured(self, split: Split) -> tuple[str, ...]:
        """Return which of :attr:`measures` are computed on a split."""
        return tuple(name for name in self.measures if split == "test" or name not in COSTLY)

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return what is reported, given the means of those :attr:`measures` that any image has."""
        reported = {name: mean for name, mean in means.items() if name not in HELPERS}
        intersection, union = (means.get(name, 0.0) for name in HELPERS)
        return reported | ({"dataset_iou": intersection / union if union else 1.0} if HELPERS[1] in means else {})
