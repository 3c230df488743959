"""What the report page knows of a run."""

from __future__ import annotations

import json

import pytest

from cyqd.report.page_data import page_data, phase_seconds
from cyqd.report.phases import OTHER, STEPS, split_seconds
from cyqd.report.record import read_run
from tests.report.runs import make_run


def seconds_told(phases: dict) -> float:
    """Add up what the chart shows: means of each generation's models; both experts are of generation 0."""
    return sum(2 * first + sum(rest) for first, *rest in phases["stack"].values())


def test_no_second_is_counted_twice(tmp_path):
    folder = make_run(tmp_path / "run", tasks=2, generations=5)
    lines = read_run(folder).evaluations
    whole = sum(line["seconds"][step] for line in lines for step in STEPS)
    phases = phase_seconds(read_run(folder))
    assert phases["parts"] == ["generate", "environments"]
    assert list(phases["stack"]) == ["breed", "materialise", "generate", "environments", OTHER, "tell"]
    assert seconds_told(phases) == pytest.approx(whole)
    assert phases["stack"]["breed"] == pytest.approx([0.01] * 6)

    lines[3]["seconds"]["generate"] = lines[3]["seconds"]["evaluate"]  # while environments work beside it
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    phases = phase_seconds(read_run(folder))
    assert tuple(phases["stack"]) == STEPS
    assert seconds_told(phases) == pytest.approx(whole)


def test_a_model_that_was_not_clocked_took_no_time():
    assert split_seconds([{}, {}]) == [{}, {}]
    assert split_seconds([{}, {"evaluate": 2.0, "generate": 1.5}]) == [
        {"generate": 0.0, OTHER: 0.0},
        {"generate": 1.5, OTHER: 0.5},
    ]


def test_points_wait_for_results_and_matrices_for_the_similarity(tmp_path):
    folder = make_run(tmp_path / "run", tasks=3, generations=2)
    points = page_data(read_run(folder))["similarity"]["points"]
    assert [point["pair"] for point in points] == [("task0", "task1"), ("task0", "task2"), ("task1", "task2")]
    (folder / "results.json").unlink()
    assert page_data(read_run(folder))["similarity"]["points"] == []
    (folder / "similarity.json").unlink()
    assert page_data(read_run(folder))["similarity"] == {}


def test_kept_scores_are_shares_of_the_experts_own(tmp_path):
    run = read_run(make_run(tmp_path / "run", tasks=2, generations=2))
    scores = {row["model"]: [cell["mean"] for cell in row["tasks"].values()] for row in run.results["rows"]}
    merged, first, second = (scores[name] for name in ("CycleQD aggregate", "expert task0", "expert task1"))
    (point,) = page_data(run)["similarity"]["points"]
    assert point["kept"] == pytest.approx((merged[0] / first[0] + merged[1] / second[1]) / 2)
