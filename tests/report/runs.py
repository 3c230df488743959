"""Runs to report on: CycleQD itself over small random models, whose scores follow from their genomes."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from cyqd.evolution import CompactGenome, CycleQD, ExpertSpace, Genome, GenomeStore
from cyqd.evolution.storage import save_json
from cyqd.report.tables import markdown_table, results_row
from tests.evolution.models import open_space

PROBLEMS = 120


def make_run(
    folder: Path, *, tasks: int, generations: int, seed: int = 0, results: bool = True, **options: Any
) -> Path:
    """Write the folder of a run.

    Args:
        folder: the run's folder.
        tasks: K, at least 2.
        generations: children to breed.
        seed: of the search and of the scores' noise.
        results: whether the run has ended, or is still going on.
        **options: of :class:`cyqd.evolution.CycleQD`; genomes must stay compact.
    """
    noise = random.Random(seed)
    with tempfile.TemporaryDirectory() as models:
        space = open_space(Path(models), tasks=tasks)
        strategy = CycleQD(generations=generations, **options)
        store = GenomeStore(folder / "evolution" / "state" / "genomes", space)
        strategy.setup(space, store, seed)
        lines = []
        while not strategy.done:
            candidate = strategy.ask()
            scores = judge(candidate.genome, noise)
            report = strategy.tell(candidate, scores)
            line = {"evaluation": candidate.id, **candidate.origin, **_line(space.tasks, scores), **report}
            lines.append({**line, "seconds": _seconds(noise)})
        if results:
            _write_results(folder, strategy, space, lines, noise)
    store.prune(strategy.kept())
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_json(folder / "evolution" / "state" / "state.json", strategy.state_dict())
    config = {
        "seed": seed,
        "run": str(folder),
        "model": {"class_path": "tests.toy.ToyModule", "init_args": {"base": "models/base"}},
        "experts": {task: f"models/{task}" for task in space.tasks},
        "strategy": {"class_path": "cyqd.evolution.CycleQD", "init_args": {"generations": generations}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def judge(genome: Genome, noise: random.Random) -> tuple[float, ...]:
    """Score a compact model on each task: more of its expert, and some stretching, is better; in steps of 1/120."""
    assert isinstance(genome, CompactGenome)
    tensors = genome.tensors()
    scores = []
    for k, alpha in enumerate(genome.alpha.mean(dim=1).tolist()):
        stretch = float(tensors[f"omega.{k}"].abs().mean()) if f"omega.{k}" in tensors else 0.0
        score = 0.3 + 0.55 * min(max(alpha + 0.8 * stretch, 0.0), 1.0) ** 0.8 + noise.gauss(0, 0.04)
        scores.append(round(min(max(score, 0.0), 1.0) * PROBLEMS) / PROBLEMS)
    return tuple(scores)


def _line(tasks: Sequence[str], scores: Sequence[float]) -> dict[str, dict[str, object]]:
    return {
        "scores": dict(zip(tasks, scores, strict=True)),
        "intervals": {t: [max(s - 0.08, 0), min(s + 0.08, 1)] for t, s in zip(tasks, scores, strict=True)},
        "n": dict.fromkeys(tasks, PROBLEMS),
    }


def _seconds(noise: random.Random) -> dict[str, float]:
    generate, environments = noise.uniform(0.9, 1.5), noise.uniform(0.1, 0.4)
    parts = {"breed": 0.01, "materialise": 0.02, "evaluate": generate + environments + 0.05, "tell": 0.001}
    return {**parts, "generate": generate, "environments": environments}


def _write_results(
    folder: Path, strategy: CycleQD, space: ExpertSpace, lines: Sequence[dict], noise: random.Random
) -> None:
    models = {"base": space.origin()}
    models |= {f"expert {task}": space.expert(k) for k, task in enumerate(space.tasks)}
    models |= {"task-vector average": space.mean()}
    models |= {f"CycleQD {rule}": genome for rule, genome in strategy.result().items()}
    rows = [results_row(name, _line(space.tasks, judge(genome, noise))) for name, genome in models.items()]
    pairs = list(combinations(range(len(space.tasks)), 2))
    similarity = {f"{space.tasks[a]}+{space.tasks[b]}": space.similarity(a, b) for a, b in pairs}
    about = {
        "evaluations": len(lines),
        "budget": strategy.budget,
        "seed": strategy.seed,
        "final": "CycleQD aggregate",
        "evolution": {"faults": {}, "retries": {}},
    }
    save_json(folder / "results.json", {**about, "cyqd": "0", "python": "3", "machine": "test", "rows": rows})
    (folder / "results.md").write_text(markdown_table(rows) + "\n")
    values = {name: {"similarity": value, "cosine": 0.01} for name, value in similarity.items()}
    save_json(
        folder / "similarity.json",
        {
            "models": space.tasks,
            "norms": {task: 1.0 + k for k, task in enumerate(space.tasks)},
            "pairs": values,
            "layers": {name: {"embed": value, "mlp": value} for name, value in values.items()},
            "groups": {name: {"weight": value} for name, value in values.items()},
            "reading": ["The experts are alike."],
            "warnings": [],
        },
    )
