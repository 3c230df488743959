"""A W&B Report of an evolution: in words what was run and what came out, panels for all that W&B was told of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import wandb
import yaml

from cyqd.evolution.storage import load_json, save_json
from cyqd.report.metrics import generation_metrics
from cyqd.report.record import RunRecord
from cyqd.report.stored import run_logs
from cyqd.report.tables import markdown_table
from cyqd.report.tracked import KNOWN, chosen_mode, read_tracked
from cyqd.report.tracking import require_key

try:
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import interface as wr
except ImportError as error:
    raise ImportError("a W&B Report needs wandb-workspaces: pip install 'cyqd[wandb-report]'") from error

SPEC = "wandb_report.json"
WIDTH = 24  # of a row of panels, in W&B's units

TITLES = {
    "archive/coverage": "Coverage: share of an archive's cells with an elite",
    "archive/qd_score": "QD score: sum of the elites' qualities",
    "archive/max": "Best quality of each archive",
    "archive/mean": "Mean quality of each archive",
    "child": "Scores of each generation's child",
    "expert": "Experts on the optimisation split",
    "expert/seconds": "Seconds per expert",
    "expert/problems": "Problems per expert",
    "expert/faults": "Problems that failed for a fault, per expert",
    "expert/retries": "Problems that needed a fresh environment, per expert",
    "front": "Hypervolume of the elites' scores",
    "time": "Seconds per part of a generation",
    "cost/seconds": "Seconds per generation",
    "cost/problems": "Problems per generation",
    "cost/faults": "Problems that failed for a fault",
    "cost/retries": "Problems that needed a fresh environment",
}


def write_workspace_report(run: RunRecord) -> str:
    """Build the W&B Report of a run that was tracked, and write its specification to ``wandb_report.json``.

    With WANDB_MODE=online, or where the run itself was online and WANDB_MODE says nothing else, it is saved to W&B,
    where it replaces what an earlier call saved.

    Args:
        run: finished or not.

    Returns:
        What to tell the user: the Report's address; offline, where it lies and how to push it later.

    Raises:
        FileNotFoundError: if the run was not tracked.
        ValueError: if W&B cannot be reached, there is no API key, or ``wandb.json`` is damaged.
    """
    known, spec = run.folder / KNOWN, run.folder / SPEC
    if not known.exists():
        raise FileNotFoundError(
            f"{known} is missing: W&B was told nothing of this run; continue it with --wandb.mode offline or online"
        )
    tracked = read_tracked(run.folder)
    online = chosen_mode("online" if tracked["url"] else "offline") == "online"
    if online:
        require_key()
    try:
        report = build_report(run, tracked, online=online)
        if spec.exists():
            report.id = load_json(spec)["id"]
        if online:
            report.save()
    except (wandb.Error, OSError) as error:
        hint = "; WANDB_MODE=offline needs no connection" if online else ""
        raise ValueError(f"wandb: {error}{hint}") from error
    save_json(spec, _model(report).model_dump(mode="json", by_alias=True, exclude_none=True))
    if online:
        return f"W&B Report: {report.url}"
    logs = " ".join(shlex.quote(str(path.parent)) for path in run_logs(run.folder, tracked["id"]))
    push = f"WANDB_MODE=online python -m cyqd report --wandb {shlex.quote(str(run.folder))}"
    return f"W&B Report, offline: {spec}\nto push it: wandb sync {logs}\nand then: {push}"


def build_report(run: RunRecord, tracked: Mapping[str, Any], *, online: bool = False) -> wr.Report:
    """Return the Report, not saved.

    Args:
        run: finished or not.
        tracked: ``id``, ``project`` and ``entity`` of the W&B run.
        online: ask W&B for the user's own entity where ``tracked`` names none.
    """
    entity = {} if online and not tracked["entity"] else {"entity": tracked["entity"] or ""}
    runs = wr.Runset(name=run.name, filters=[expr.Metric("ID") == tracked["id"]])
    blocks: list[Any] = [wr.TableOfContents(), wr.H1("What was run"), wr.MarkdownBlock(_about(run))]
    blocks += [wr.CodeBlock(yaml.safe_dump(run.config, sort_keys=False), "yaml"), wr.H1("Results"), _results(run)]
    for title, panels in _sections(run).items():
        if panels:
            blocks += [wr.H1(title), wr.PanelGrid(runsets=[runs], panels=_arranged(panels))]
    title = f"{run.settings['strategy']} {run.name}"[:128]  # W&B takes no longer ones
    return wr.Report(project=tracked["project"], title=title, blocks=blocks, width="fluid", **entity)


def _model(report: wr.Report) -> Any:
    return report._to_model()  # type: ignore[no-untyped-call]  # the only way to what `save` sends


def _about(run: RunRecord) -> str:
    base = run.config.get("model", {}).get("init_args", {}).get("base")
    budget = run.results.get("budget")
    lines = [
        f"- {run.settings['strategy']} over {', '.join(run.tasks)}, seed {run.settings['seed']}",
        f"- {len(run.evaluations)} models evaluated{f' of {budget}' if budget else ' so far'}",
        f"- base: `{base}`",
        *(f"- expert in {task}: `{path}`" for task, path in run.config.get("experts", {}).items()),
    ]
    return "\n".join(lines)


def _results(run: RunRecord) -> wr.MarkdownBlock:
    rows = run.results.get("rows")
    if not rows:
        return wr.MarkdownBlock("The run is going on; the test split is scored at its end.")
    return wr.MarkdownBlock(f"Test split, means with 95 % intervals:\n\n{markdown_table(rows)}")


def _sections(run: RunRecord) -> dict[str, list[Any]]:
    """Return the panels by section; what the run does not have (yet) is left out."""
    charts = _charts(run)
    archives: list[Any] = []
    if run.edges:
        archives = [_media("Archives over generations", ["archive/maps"], height=16, slider=True), _table("elites")]
        archives += [_table(f"archive/{task}/cells", width=WIDTH // 2) for task in run.tasks]
    experts = [
        _bars(TITLES[name], keys, width=WIDTH // 2)
        for name, keys in charts.items()
        if name.split("/")[0] == "expert"
    ]
    return {
        "Progress": _curves(charts, "archive", "child", "front"),
        "Archives": archives,
        "Experts": experts,
        **(_outcome(run) if run.results else {}),
        "Time and cost": _curves(charts, "time", "cost"),
    }


def _outcome(run: RunRecord) -> dict[str, list[Any]]:
    """Return the panels, by section, of what is known only when the run has ended."""
    final = [f"results/final/{name}" for name in (*run.tasks, "mean")]
    bars = _bars("The final model on the test split", final, width=WIDTH // 3)
    return {
        "Models": [bars, _table("results/table", width=WIDTH - bars.layout.w)],
        "Pictures": [_media(path.stem, [f"pictures/{path.stem}"], height=16) for path in run.pictures],
        "Similarity": _similarity(pairs) if (pairs := run.known_similarities) else [],
        "Report page": [_media("Report page", ["report"], height=24)],
    }


def _charts(run: RunRecord) -> dict[str, list[str]]:
    """Return the keys of every generation's numbers, those that share a unit together."""
    keys = dict.fromkeys(key for line in run.evaluations for key in generation_metrics(line, [], run.tasks))
    if run.evaluations:
        keys |= dict.fromkeys(generation_metrics(run.evaluations[-1], run.archives(), run.tasks))
    charts: dict[str, list[str]] = {}
    for key in keys:
        group, *_, last = key.split("/")
        alone = group in ("archive", "cost") or "/cost/" in key  # of a unit of its own
        charts.setdefault(f"{group}/{last}" if alone else group, []).append(key)
    return charts


def _similarity(pairs: Iterable[str]) -> list[Any]:
    scatter = wr.CustomChart(
        query={"summaryTable": {"tableKey": "similarity/pairs"}},
        chart_name="wandb/scatter/v0",
        chart_fields={"x": "similarity", "y": "mean"},
        chart_strings={"title": "What merging keeps of the scores, by similarity"},
        layout=_layout(WIDTH // 2, 10),
    )
    bars = _bars("Similarity of pairs of experts", [f"similarity/{pair}" for pair in pairs], width=WIDTH // 2)
    return [bars, scatter, *(_table(f"similarity/{name}", width=WIDTH // 2) for name in ("matrix", "pairs"))]


def _curves(charts: Mapping[str, Sequence[str]], *groups: str) -> list[Any]:
    layout = (WIDTH // 3, 8)
    return [
        wr.LinePlot(title=TITLES[name], x="Step", y=list(keys), title_x="generation", layout=_layout(*layout))
        for name, keys in charts.items()
        if name.split("/")[0] in groups
    ]


def _bars(title: str, keys: Sequence[str], *, width: int) -> wr.BarPlot:
    return wr.BarPlot(title=title, metrics=list(keys), layout=_layout(width, 10))


def _media(title: str, keys: Sequence[str], *, height: int, slider: bool = False) -> wr.MediaBrowser:
    layout = _layout(WIDTH, height)
    axis: Literal["step"] | None = "step" if slider else None
    return wr.MediaBrowser(title=title, media_keys=list(keys), num_columns=1, gallery_axis=axis, layout=layout)


def _table(key: str, *, width: int = WIDTH) -> wr.WeavePanelSummaryTable:
    return wr.WeavePanelSummaryTable(table_name=key, layout=_layout(width, 10))


def _layout(width: int, height: int) -> wr.Layout:
    return wr.Layout(w=width, h=height)


def _arranged(panels: Sequence[Any]) -> list[Any]:
    """Place panels from left to right in rows; those of a section's row are equally high."""
    x = y = height = 0
    for panel in panels:
        if x + panel.layout.w > WIDTH:
            x, y = 0, y + height
        panel.layout.x, panel.layout.y = x, y
        x, height = x + panel.layout.w, panel.layout.h
    return list(panels)
