"""Pictures of what merging changed: the problems where the merged model gains and loses most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from cyqd.evolution import ExpertSpace, Genome, materialise
from cyqd.report.figures import picture_grid
from cyqd.training.module import EvolvableModule


def extremes(
    expert: Mapping[str, float], merged: Mapping[str, float], task: str, *, count: int
) -> dict[str, float]:
    """Choose the problems of a task where a merged model gains and loses most.

    Args:
        expert: the score of the task's expert by problem, "task/id"; may hold other tasks' problems.
        merged: the merged model's.
        task: the task's name.
        count: at most so many gains, and at most so many losses.

    Returns:
        What the merged model gains by problem, falling; problems where it neither gains nor loses are left out.
    """
    gains = {name: merged[name] - score for name, score in expert.items() if name.partition("/")[0] == task}
    falling = sorted(gains, key=lambda name: (-gains[name], name))
    chosen = [n for n in falling[:count] if gains[n] > 0] + [n for n in falling[-count:] if gains[n] < 0]
    return {name: gains[name] for name in chosen}


def draw_pictures(
    model: EvolvableModule,
    data: L.LightningDataModule,
    space: ExpertSpace,
    merged: Genome,
    records: Sequence[Mapping[str, Any]],
    final: str,
    folder: Path,
    *,
    count: int = 3,
) -> list[Path]:
    """Draw, task by task, problems as the experts and the merged model see them side by side.

    Args:
        model: the live module; its weights are overwritten.
        data: whose test split was scored.
        space: the experts.
        merged: the merged model.
        records: history lines of the models on the test split, with ``outcomes``.
        final: the merged model's name in ``records``.
        folder: where TASK.png is written.
        count: so many problems where merging gained most, and so many where it lost most.

    Returns:
        The files; none where the domain has nothing to show.
    """
    outcomes = {record["model"]: record["outcomes"] for record in records}
    chosen = {
        task: extremes(outcomes[f"expert {task}"], outcomes[final], task, count=count) for task in space.tasks
    }
    problems = [name for gains in chosen.values() for name in gains]
    if not problems or type(model).pictures is EvolvableModule.pictures:
        return []
    model.to(space.device)
    models = {f"expert {task}": space.expert(k) for k, task in enumerate(space.tasks)} | {final: merged}
    rows: dict[str, dict[str, Any]] = {name: {} for name in problems}
    for label, genome in models.items():
        materialise(genome, model.evolved_parameters())
        for name, picture in model.pictures(data, problems).items():
            rows[name] |= {"problem": (picture.problem, name), "truth": (picture.truth, "")}
            rows[name][label] = (picture.prediction, f"{outcomes[label][name]:.2f}")
    paths = []
    for task, gains in chosen.items():
        if drawn := [name for name in gains if rows[name]]:
            paths.append(folder / f"{task}.png")
            titles = [f"{gains[name]:+.2f} by merging" for name in drawn]
            picture_grid([rows[name] for name in drawn], paths[-1], titles=titles)
    return paths
