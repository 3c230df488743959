"""Checks of an evolution before it starts: each says what it found, and none hides another."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning as L
import psutil
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from cyqd.evolution import ExpertSpace
from cyqd.evolution.space import Weights
from cyqd.training.estimates import bytes_text
from cyqd.training.module import EvolvableModule
from cyqd.training.run import HOST_ARGUMENTS, SetupError
from cyqd.training.sharding import busy
from cyqd.training.strategies import EvaluationStrategy

Part = TypeVar("Part")
Status = Literal["ok", "warning", "skipped", "FAILED"]

USERS_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, MisconfigurationException, SetupError)
"""What the parts raise where the user has something to mend."""

EVEN = 0.9
"""Processes share evenly if the average one has work for this share of an evaluation."""

ROWS = 64
"""Rows of a matrix that are compared at a time."""

HALVES = ("optimisation", "test")


@dataclass
class Finding:
    """What a check found.

    Attributes:
        check: what was looked at.
        status: "skipped" where it could not be looked at, which the text explains.
        text: what was found, and what to do about it, on one line.
    """

    check: str
    status: Status = "ok"
    text: str = ""

    def warn(self, text: str) -> None:
        """Note what the user should think over."""
        self.status, self.text = "warning", f"{self.text}; {text}" if self.text else text


class Skipped(Exception):
    """A check has nothing to look at, because an earlier one failed, or because it was not asked for."""


class Findings(list[Finding]):
    """The findings of all checks, in order."""

    @contextmanager
    def check(self, name: str) -> Iterator[Finding]:
        """Run one check; what it raises is what it found."""
        finding = Finding(name)
        self.append(finding)
        try:
            yield finding
        except Skipped as reason:
            finding.status, finding.text = "skipped", str(reason)
        except USERS_ERRORS as error:
            finding.status, finding.text = "FAILED", " ".join(str(error).split()) or type(error).__name__

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(finding.status == "FAILED" for finding in self)


def need(name: str, part: Part | None) -> Part:
    """Return what an earlier check found; without it, skip this one."""
    if part is None:
        raise Skipped(f"needs {name}, see above")
    return part


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules on the meta device: shapes and dtypes, but no memory."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")
        yield


def open_expert(model: EvolvableModule, base: Weights, task: str, path: Path) -> Weights:
    """Open one expert, and check that it fits the base.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it does not fit, naming what differs.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no model at {path}; fit it first, or mend the path")
    model.check_compatible(model.base, path)
    weights = model.read_weights(path)
    ExpertSpace(base, [weights], [task], names=model.evolved_parameters())
    return weights


def changed(base: Weights, expert: Weights, names: Iterable[str]) -> list[str]:
    """Return the parameters in which an expert differs from the base.

    They are compared in float32, as task vectors are. A matrix is read up to its first row that differs, so that
    only what was frozen is read as a whole.
    """
    return [name for name in names if _differ(base[name], expert[name])]


def _differ(base: Tensor, expert: Tensor) -> bool:
    parts = zip(torch.split(base, ROWS), torch.split(expert, ROWS), strict=True) if base.ndim else [(base, expert)]
    return any(not torch.equal(ours.float(), theirs.float()) for ours, theirs in parts)


def problem_counts(data: L.LightningDataModule) -> dict[str, dict[str, int]]:
    """Count the problems of each task's halves, those that are kept back for final rules left out.

    Raises:
        Skipped: if the data does not name its problems.
        ValueError: if a half is empty, or a problem is in both.
    """
    if not hasattr(data, "splits"):
        raise Skipped(f"{type(data).__name__} does not name its problems")
    counts, wrong = {}, []
    for task, halves in data.splits().items():
        counts[task] = {half: len(halves[half]) for half in HALVES}
        wrong += [f"the {half} half of task {task} is empty" for half in HALVES if not halves[half]]
        if both := {*halves["optimisation"], *halves.get("selection", ())} & set(halves["test"]):
            wrong.append(
                f"{len(both)} problems of task {task} are in both halves, such as {min(both)!r}: "
                "test scores would be too good"
            )
    if wrong:
        raise ValueError("; ".join(wrong))
    return counts


def batch_counts(data: L.LightningDataModule) -> dict[str, list[int]]:
    """Count the batches of each half that one process would have, by task."""
    data.prepare_data()
    data.setup("validate")
    data.setup("test")
    loaders = {"optimisation": data.val_dataloader(), "test": data.test_dataloader()}
    return {half: [len(loader) for loader in loaders[half]] for half in HALVES}


def fewer(batches: Sequence[int], processes: int) -> int:
    """Return the largest number of processes, up to a given one, that share batches evenly; see :data:`EVEN`."""
    return next(n for n in range(min(processes, sum(batches)), 0, -1) if busy(batches, n) >= EVEN)


def play_one(data: L.LightningDataModule, task: Any) -> str:
    """Start a task's environment for real, and play the replies to one problem through it.

    Returns:
        What was played.

    Raises:
        RuntimeError, OSError: if there is no sandbox, no daemon or no server.
        ValueError: if a reply is not judged as it should be.
    """
    part = copy.copy(data)
    part.tasks = [task]  # type: ignore[attr-defined]
    start = time.perf_counter()
    checks = list(part.check_tasks(lambda: None, limit=1))  # type: ignore[attr-defined]
    for check in checks:
        for problem, reason in check.faults.items():
            raise ValueError(f"{check.kind} reply to {problem}: the environment broke: {reason}")
        for problem in check.suspicious:
            verb = "does not solve" if check.kind == "gold" else "solves"
            raise ValueError(f"the {check.kind} reply {verb} {problem}; play all: python -m cyqd check-task")
    kinds = [check.kind for check in checks if check.scores]
    without = "" if "gold" in kinds else "; no problem names a gold one"
    return (
        f"judged one reply each as it should ({', '.join(kinds)}) in {time.perf_counter() - start:.2g} s{without}"
    )


def open_trainer(arguments: Mapping[str, Any]) -> L.Trainer:
    """Build the hosting Trainer without loggers and callbacks, to see which devices it gets.

    Raises:
        MisconfigurationException: if they are not there.
    """
    arguments = {**arguments, **HOST_ARGUMENTS, "logger": False}
    trainer = L.Trainer(**arguments)
    return trainer if trainer.world_size == 1 else L.Trainer(**arguments, strategy=EvaluationStrategy())


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def free_space(folder: Path) -> tuple[int, int]:
    """Check that a folder can be made and written to.

    Returns:
        The bytes free there, and the number of its file system.

    Raises:
        OSError: if it cannot be written to.
    """
    there = nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error}; choose another folder") from error
    return shutil.disk_usage(there).free, there.stat().st_dev


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device, or on this machine for the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_room(finding: Finding, place: str, needed: float, free: float, *, mend: str) -> None:
    """Compare an estimate with what is there; above nine tenths of it is a warning.

    Raises:
        ValueError: if it is not enough.
    """
    finding.text = f"{bytes_text(free)} free {place}, about {bytes_text(needed)} needed"
    if needed > free:
        raise ValueError(f"{finding.text}: {mend}")
    if needed > 0.9 * free:
        finding.warn(f"that is tight: {mend}")
