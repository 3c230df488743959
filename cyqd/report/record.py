"""What a run's folder says: the one place that reads it for reports, figures and exports."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from cyqd.evolution.archive import Archive, Cell, Elite

STATE = Path("evolution") / "state" / "state.json"


@dataclass(frozen=True)
class Change:
    """A model that entered an archive.

    Attributes:
        evaluation: the model's number.
        archive: the index of the archive's task.
        cell: where it entered.
    """

    evaluation: int
    archive: int
    cell: Cell


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands, finished or not; see :func:`read_run`.

    Attributes:
        folder: the run's folder.
        config: what ran.
        settings: of the strategy: ``strategy`` (its name), ``seed``, ``tasks`` and its hyper-parameters.
        evaluations: the history's lines, one per model, their numbers counting from 0.
        edges: the bin edges of every task's behaviour axis; empty where the strategy has no archives, or none yet.
        results: what ``results.json`` holds, empty before the first end of the search; see :attr:`results_current`.
        similarity: what ``similarity.json`` holds, empty where there is none.
        pictures: files of ``pictures/``, by name.
        budget: number of models to score in all, where it is known.
    """

    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]
    evaluations: list[dict[str, Any]]
    edges: list[tuple[float, ...]]
    results: dict[str, Any] = field(default_factory=dict)
    similarity: dict[str, Any] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    budget: int | None = None

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of the archives."""
        return list(self.settings["tasks"])

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.folder.resolve().name

    @property
    def results_current(self) -> bool:
        """Whether there are results, and of the run as it stands; once it is continued they are old."""
        return self.results.get("evaluations") == len(self.evaluations)

    @property
    def known_similarities(self) -> dict[str, float]:
        """The similarity of pairs of experts, "A+B"; only where their singular values were known."""
        pairs = self.similarity.get("pairs", {})
        return {name: pair["similarity"] for name, pair in pairs.items() if pair["similarity"] is not None}

    @cached_property
    def elites(self) -> list[Elite]:
        """Every model that was evaluated, elite or not, by its number."""
        return [
            Elite(line["evaluation"], tuple(line["scores"][task] for task in self.tasks))
            for line in self.evaluations
        ]

    @cached_property
    def changes(self) -> list[Change]:
        """Everything that ever entered an archive, in order.

        The experts enter together, when the last of them has been scored; later models as the history says.
        """
        empty = [Archive(task, self.edges) for task in range(len(self.tasks))] if self.edges else []
        found: list[Change] = []
        for line, elite in zip(self.evaluations, self.elites, strict=True):
            for archive in empty:
                if line["generation"] == 0:
                    entered = archive.add(elite)
                else:
                    entered = self.tasks[archive.task] in line.get("entered", ())
                if entered:
                    found.append(Change(elite.id, archive.task, archive.cell_of(elite.scores)))
        return found

    def archives(self, evaluations: int | None = None) -> list[Archive]:
        """Return the archives as they were after so many evaluations; by default, as they are.

        Args:
            evaluations: at least the number of experts, else the archives hold some of the experts only.
        """
        upto = len(self.evaluations) if evaluations is None else evaluations
        archives = [Archive(task, self.edges) for task in range(len(self.tasks))] if self.edges else []
        for change in self.changes:
            if change.evaluation < upto:
                archives[change.archive].cells[change.cell] = self.elites[change.evaluation]
        return archives

    @property
    def experts(self) -> dict[str, int]:
        """The experts' evaluations, by task."""
        return {line["expert"]: line["evaluation"] for line in self.evaluations if "expert" in line}

    @cached_property
    def shares(self) -> list[tuple[float, ...]]:
        """α of every model: how much of each expert's task vector it holds, before any mutation of singular values.

        A search for coefficients tells α itself, and so does mutation of coefficients: it is averaged over the
        model's parts, and summed up where orthogonal task vectors are mixed with the experts' own. A crossover that
        is linear tells parents and coefficients, from which α follows. Empty tuples of models that came about
        otherwise, and of their offspring.
        """
        found: list[tuple[float, ...]] = []
        for line in self.evaluations:
            if "expert" in line:
                found.append(tuple(float(task == line["expert"]) for task in self.tasks))
                continue
            if "alpha" in line:
                means, experts = [fmean(parts) for parts in line["alpha"]], len(self.tasks)
                found.append(tuple(math.fsum(means[k::experts]) for k in range(experts)))
                continue
            parts = [found[parent] for parent in line.get("parents", ())]
            linear = "coefficients" in line and all(parts)
            columns = zip(*parts, strict=True) if linear else ()
            found.append(tuple(_dot(line["coefficients"], column) for column in columns))
        return found

    def ancestors(self, evaluation: int) -> list[int]:
        """Return a model, its parents, theirs, and so on to the experts, newest first."""
        seen, waiting = set(), [evaluation]
        while waiting:
            if (model := waiting.pop()) not in seen:
                seen.add(model)
                waiting += self.evaluations[model].get("parents", [])
        return sorted(seen, reverse=True)


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder; it may be written to meanwhile.

    Raises:
        FileNotFoundError: if there is no evolution in it, naming the file that is missing.
        ValueError: if a file is damaged.
    """
    state_path = folder / STATE
    if not state_path.exists():
        parts = sorted(path.parents[2].name for path in folder.glob(f"*/{STATE}"))
        holds = f"; it holds the runs {', '.join(parts)}: name one of them" if parts else ""
        raise FileNotFoundError(f"{folder} holds no evolution yet ({state_path} is missing){holds}")
    state = _load(state_path, "settings", "evaluated")  # first: the history is never behind it
    archives = state.get("archives") or []
    results, similarity = folder / "results.json", folder / "similarity.json"
    return RunRecord(
        folder=folder,
        config=_config(folder / "config.yaml"),
        settings=state["settings"],
        evaluations=list(_lines(folder / "history.jsonl", state["evaluated"])),
        edges=[tuple(edges) for edges in archives[0]["edges"]] if archives else [],
        results=_load(results, "evaluations", "rows") if results.exists() else {},
        similarity=_load(similarity, "models", "pairs") if similarity.exists() else {},
        pictures=sorted((folder / "pictures").glob("*.png")),
        budget=state.get("budget"),
    )


def troubles(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Count what broke in evaluations, by problem.

    Args:
        lines: of a history.

    Returns:
        "faults" (the problem scored 0) and "retries" (it went well on a fresh environment): by problem, how many
        ``times``, and the ``last`` reason.
    """
    found: dict[str, dict[str, Any]] = {"faults": {}, "retries": {}}
    for line in lines:
        for kind, problems in found.items():
            for problem, reason in line.get(kind, {}).items():
                problems[problem] = {"times": problems.get(problem, {"times": 0})["times"] + 1, "last": reason}
    return found


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; it says what ran, and stands beside the history")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: expected settings by name, got {config!r}")
    return config


def _load(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has these keys."""
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing)}")
    return content


def _parse(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    content = json.loads(text, parse_constant=refuse)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {text[:40]!r}")
    return content


def _lines(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yield the first lines of a history; what follows them is not complete yet."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if len(lines) < count:
        raise ValueError(f"{path} is damaged: expected {count} lines, as {STATE.name} says, got {len(lines)}")
    for number, line in enumerate(lines[:count]):
        try:
            yield {"generation": number, **_parse(line)}
        except ValueError as error:
            raise ValueError(f"{path} is damaged in line {number + 1}: {error}") from error


def _dot(coefficients: Sequence[float], values: Sequence[float]) -> float:
    return sum(c * v for c, v in zip(coefficients, values, strict=True))
