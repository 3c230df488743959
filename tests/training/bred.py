"""Runs of any domain without its data: CycleQD over real experts, with scores that are made up."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import yaml

from cyqd.evolution import CycleQD, GenomeStore
from cyqd.evolution.storage import save_json
from cyqd.report.record import STATE
from cyqd.training import EvolvableModule
from cyqd.training.bases import prepare_space
from cyqd.training.run import open_space


def breed(
    run: Path,
    kind: type[EvolvableModule],
    options: Mapping[str, object],
    experts: Mapping[str, Path],
    cache: Path,
    **strategy: object,
) -> CycleQD:
    """Write the folder of a run of a few generations; return its strategy, which knows its genomes.

    Args:
        run: the folder.
        kind: the domain's module.
        options: its arguments.
        experts: by task.
        cache: where singular bases are kept.
        strategy: arguments of CycleQD.
    """
    space = open_space(kind(**options), experts)
    search = CycleQD(**strategy)
    prepare_space(space, search, cache)
    search.setup(space, GenomeStore((run / STATE).parent / "genomes", space), 0)
    scores, lines = random.Random(0), []
    while not search.done:
        child = search.ask()
        judged = {task: scores.random() for task in experts}
        report = search.tell(child, tuple(judged.values()))
        details = {"intervals": {task: [0, 1] for task in judged}, "n": dict.fromkeys(judged, 9)}
        lines.append({"evaluation": child.id, **child.origin, "scores": judged, **details, **report})
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    search.store.prune(search.kept())
    save_json(run / STATE, search.state_dict())
    config = {
        "seed": 0,
        "model": {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": options},
        "experts": {task: str(path) for task, path in experts.items()},
        "strategy": {"class_path": "cyqd.evolution.CycleQD", "init_args": strategy},
        "run": str(run),
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return search
