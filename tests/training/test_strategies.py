"""Every search runs from the command line, continues after an end in the middle, and has a report and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyqd.__main__ import main
from cyqd.report.record import STATE
from tests.toy import FILE

SEARCHES: dict[str, dict[str, Any]] = {
    "CMAES": {"population": 4, "granularity": "layer"},
    "PolicyGradient": {"batch": 4},
    "NSGA2": {"population": 4},
    "CMAME": {"batch": 4},
    "PlainQD": {"mutation": "none"},
}


def evolve(config: Path, strategy: str, generations: int | None, run: Path, **options: Any) -> Path:
    """Run or continue a search in this process."""
    content = yaml.safe_load(config.read_text())
    own = options if generations is None else {"generations": generations, **options}
    content |= {"run": str(run), "strategy": {"class_path": f"cyqd.evolution.{strategy}", "init_args": own}}
    config.write_text(yaml.safe_dump(content))
    main(["evolve", "--config", str(config), "--ckpt_path", "last"])
    return run


def outcome(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any], str, bytes]:
    """Return history, state, results table and final model."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    state = json.loads((run / STATE).read_text())
    return kept, state, (run / "results.md").read_text(), (run / "model" / FILE).read_bytes()


def assert_reported(run: Path, folder: Path) -> None:
    """Write the report page and the figures once more."""
    main(["report", str(run), "--out", str(folder / "page.html")])
    main(["figures", str(run), "--out", str(folder / "figures")])
    assert (folder / "page.html").stat().st_size > 0
    assert {path.stem for path in (folder / "figures").iterdir()} >= {"curve", "cost", "results"}


@pytest.mark.parametrize("strategy", SEARCHES)
def test_a_search_that_ended_early_continues(
    strategy: str, toy_config: Callable[..., Path], tmp_path: Path
) -> None:
    config, options = toy_config(tmp_path / "run"), SEARCHES[strategy]
    whole = evolve(config, strategy, 8, tmp_path / "whole", **options)
    parts = evolve(config, strategy, 5, tmp_path / "parts", **options)
    evolve(config, strategy, 8, parts, **options)
    assert outcome(parts) == outcome(whole)
    results = json.loads((whole / "results.json").read_text())
    lines = outcome(whole)[0]
    assert len([line for line in lines if line["generation"] > 0]) == 8
    assert results["evaluations"] == results["budget"] == len(lines)


def test_the_average_is_a_run_like_any_other(toy_config: Callable[..., Path], tmp_path: Path) -> None:
    run = evolve(toy_config(tmp_path / "run"), "TaskVectorAverage", None, tmp_path / "average")
    assert len(outcome(run)[0]) == 1
    assert_reported(run, tmp_path)


def test_a_model_of_the_front_is_exported_and_the_run_reported(
    toy_config: Callable[..., Path], tmp_path: Path
) -> None:
    run = evolve(toy_config(tmp_path / "run"), "NSGA2", 6, tmp_path / "front", population=4)
    elite = outcome(run)[1]["front"][0]["id"]
    main(["export", str(run), "--elite", str(elite), "--out", str(tmp_path / "model")])
    recipe = json.loads((tmp_path / "model" / "merge_recipe.json").read_text())
    shares = [expert["share"] for expert in recipe["experts"].values()]
    assert shares == [row[0] for row in outcome(run)[0][elite]["alpha"]]
    assert_reported(run, tmp_path)
