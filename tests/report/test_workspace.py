"""The W&B Report's specification: valid for W&B's own classes, with a panel for whatever an evolution logs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_workspaces.reports.v2 import interface, internal

from cyqd.evolution.storage import load_json, save_json
from cyqd.report.metrics import generation_metrics
from cyqd.report.page import write_page
from cyqd.report.record import RunRecord, read_run
from cyqd.report.stored import run_logs
from cyqd.report.tables import markdown_table
from cyqd.report.tracking import final_scores, finish_run, results_content, start_run
from cyqd.report.workspace import SPEC, build_report, write_workspace_report
from tests.report.finished import read_finished
from tests.report.runs import make_run

TRACKED = {"id": "a1b2c3d4", "project": "merging", "entity": None, "url": None}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


def make(folder: Path, **options: Any) -> RunRecord:
    make_run(folder, **{"tasks": 3, "generations": 4, **options})
    save_json(folder / "wandb.json", TRACKED)
    return read_run(folder)


def specification(run: RunRecord) -> Any:
    """Write the Report's specification; return it as W&B's own class that reads what its server sends."""
    write_workspace_report(run)
    return internal.ReportViewspec.model_validate_json((run.folder / SPEC).read_text())


def panels(report: Any) -> Iterator[Any]:
    for block in report.blocks:
        if isinstance(block, interface.PanelGrid):
            yield from block.panels


def shown(report: Any) -> set[str]:
    """Return the keys that the panels show."""
    keys: set[str] = set()
    for panel in panels(report):
        named = [getattr(panel, kind, []) for kind in ("y", "metrics")]
        keys |= {getattr(metric, "name", metric) for metrics in named for metric in metrics}
        keys |= set(getattr(panel, "media_keys", ()))
        keys |= {panel.table_name} if hasattr(panel, "table_name") else set()
        if isinstance(panel, interface.CustomChart):
            keys.add("similarity/scatter")
    return keys


def logged(run: RunRecord) -> set[str]:
    """Log an evolution to an offline W&B run; return the keys that its log holds."""
    track = start_run(run.folder, id=TRACKED["id"], mode="offline", config={}, project="merging")
    for number, line in enumerate(run.evaluations, start=1):
        track.log(generation_metrics(line, run.archives(number), run.tasks), step=line["generation"])
    write_page(run.folder)
    track.log(results_content(run), step=run.evaluations[-1]["generation"])
    track.summary.update(final_scores(run))
    finish_run(track, run.folder, failed=False)
    (stored,) = read_finished(run.folder)
    keys = {key for row in stored.rows for key in row} | stored.summary.keys()
    return {key for key in keys if not key.startswith("_")}


def test_there_is_a_panel_for_all_that_is_logged(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    keys = logged(run)
    groups = {"archive", "child", "cost", "elites", "expert", "front", "report", "results", "similarity", "time"}
    assert {key.split("/")[0] for key in keys} == groups
    missing = keys - shown(interface.Report._from_model(specification(run)))
    assert missing <= {"similarity/scatter_table"}, "which the scatter plot itself shows"


def test_the_specification_is_w_and_bs_own(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    model = specification(run)
    report = interface.Report._from_model(model)
    unknown = (interface.UnknownBlock, interface.UnknownPanel)
    assert not any(isinstance(part, unknown) for part in [*report.blocks, *panels(report)])
    kinds = [
        panel.view_type for block in model.spec.blocks if block.type == "panel-grid" for panel in _placed(block)
    ]
    assert [panel.view_type for block in report._to_model().spec.blocks if block.type == "panel-grid"
            for panel in _placed(block)] == kinds  # fmt: skip
    assert (model.project.name, model.display_name) == ("merging", "CycleQD run")


def _placed(grid: Any) -> list[Any]:
    found: list[Any] = grid.metadata.panel_bank_section_config.panels
    return found


def test_no_panel_lies_on_another_or_leaves_the_page(tmp_path: Path) -> None:
    model = specification(make(tmp_path / "run", tasks=4))
    for grid in (block for block in model.spec.blocks if block.type == "panel-grid"):
        seen: set[tuple[int, int]] = set()
        for box in (panel.layout for panel in _placed(grid)):
            cells = {(x, y) for x in range(box.x, box.x + box.w) for y in range(box.y, box.y + box.h)}
            assert not cells & seen
            assert max(x for x, _ in cells) < 24
            seen |= cells


def test_it_shows_this_run_alone_and_says_what_was_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    report = build_report(run, TRACKED)
    for grid in (block for block in report.blocks if isinstance(block, interface.PanelGrid)):
        (runs,) = grid.runsets
        (condition,) = runs._to_model().filters["filters"]
        assert (condition["key"]["name"], condition["op"], condition["value"]) == ("name", "=", "a1b2c3d4")
    text = "\n".join(block.text for block in report.blocks if isinstance(block, interface.MarkdownBlock))
    assert markdown_table(run.results["rows"]) in text
    assert "7 models evaluated of 7" in text
    assert "expert in task1: `models/task1`" in text


def test_pictures_have_panels(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    (run.folder / "pictures").mkdir()
    (run.folder / "pictures" / "task1.png").touch()
    assert "pictures/task1" in shown(build_report(read_run(run.folder), TRACKED))


def test_a_run_that_goes_on_has_a_report(tmp_path: Path) -> None:
    run = make(tmp_path / "run", tasks=2, results=False)
    report = interface.Report._from_model(specification(run))
    assert "archive/task0/coverage" in shown(report)
    assert not any(key.startswith(("results/", "report")) for key in shown(report))


def test_offline_it_says_how_to_push(tmp_path: Path) -> None:
    run = make(tmp_path / "a run")
    finish_run(start_run(run.folder, id=TRACKED["id"], mode="offline", config={}), run.folder, failed=False)
    message = write_workspace_report(run)
    (log,) = run_logs(run.folder, TRACKED["id"])
    assert f"wandb sync '{log.parent}'" in message
    assert f"WANDB_MODE=online python -m cyqd report --wandb '{run.folder}'" in message


def test_a_report_that_was_saved_is_written_again_not_twice(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    write_workspace_report(run)
    path = run.folder / SPEC
    save_json(path, {**load_json(path), "id": "VmlldzoxMjM="})
    write_workspace_report(run)
    assert load_json(path)["id"] == "VmlldzoxMjM="


def test_wandb_mode_is_read_as_a_run_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", tasks=2, generations=1)
    save_json(run.folder / "wandb.json", {**TRACKED, "url": "https://wandb.ai"})
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ValueError, match="WANDB_MODE: expected one of"):
        write_workspace_report(run)
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert "offline" in write_workspace_report(run)


def test_a_run_that_was_not_tracked_is_refused(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", tasks=2, generations=1))
    with pytest.raises(FileNotFoundError, match=r"wandb\.json is missing.*--wandb\.mode offline"):
        write_workspace_report(run)


def test_online_without_a_key_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match="run `wandb login`, or set WANDB_API_KEY"):
        write_workspace_report(run)
    assert not (run.folder / SPEC).exists()


def test_without_wandb_workspaces_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "cyqd.report.workspace")
    with pytest.raises(ImportError, match=r"pip install 'cyqd\[wandb-report\]'"):
        __import__("cyqd.report.workspace")
