"""A generation as numbers, for any logger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import moocore
import numpy as np

from cyqd.evolution.archive import Archive


def generation_metrics(
    line: Mapping[str, Any], archives: Sequence[Archive], tasks: Sequence[str]
) -> dict[str, float]:
    """Turn a generation into metrics by name; its step is the line's ``generation``.

    Args:
        line: of a run's history.
        archives: as they are after it; empty for strategies without, and until the last expert is scored.
        tasks: the tasks' names, in the archives' order.

    Returns:
        ``child/TASK``, ``archive/TASK/{coverage,qd_score,max,mean}``, ``front/hypervolume``, ``time/PART`` in
        seconds, ``cost/{seconds,problems,faults,retries}``; of an expert, ``expert/NAME/TASK`` and
        ``expert/NAME/cost/…``. Scores, coverage and hypervolume lie in [0, 1].
    """
    model = f"expert/{line['expert']}" if "expert" in line else "child"
    metrics: dict[str, float] = {f"{model}/{task}": score for task, score in line["scores"].items()}
    for archive in archives:
        qualities = [archive.quality(elite) for elite in archive]
        values = {"coverage": archive.coverage, "qd_score": archive.qd_score}
        values |= {"max": max(qualities), "mean": fmean(qualities)}
        metrics |= {f"archive/{tasks[archive.task]}/{name}": value for name, value in values.items()}
    if archives:
        metrics["front/hypervolume"] = hypervolume(archives)
    seconds = line["seconds"]
    own = ("breed", "materialise", "evaluate", "tell")  # what else was timed lies within the evaluation
    cost = {"seconds": math.fsum(seconds[part] for part in own if part in seconds)}
    cost["problems"] = sum(line["n"].values())
    cost |= {trouble: len(line.get(trouble, ())) for trouble in ("faults", "retries")}
    if "expert" in line:  # all experts share generation 0
        return metrics | {f"{model}/cost/{name}": value for name, value in cost.items()}
    metrics |= {f"time/{part}": value for part, value in seconds.items()}
    return metrics | {f"cost/{name}": value for name, value in cost.items()}


def hypervolume(archives: Sequence[Archive]) -> float:
    """Return the share of all score vectors in [0, 1]^K that some elite dominates (Zitzler and Thiele 1998)."""
    scores = {elite.scores for archive in archives for elite in archive}
    return float(moocore.hypervolume(np.array(sorted(scores)), ref=0.0, maximise=True))
