"""The report page: one HTML file that holds all it needs and opens from disk, with no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import cyqd
from cyqd.evolution.storage import atomic_path
from cyqd.report.page_data import page_data
from cyqd.report.phases import STEPS
from cyqd.report.record import RunRecord, read_run, troubles

TEMPLATES = Path(__file__).with_name("html")
PICTURE_BYTES = 5_000_000
"""Pictures are put into the page up to this size in all; the page stays below 15 MB with them."""


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Write the report page of a run, finished or not.

    Args:
        folder: the run's folder.
        out: the file to write; ``folder``/report.html by default.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if the folder holds no evolution, as :func:`cyqd.report.record.read_run`.
        ValueError: if one of its files is damaged.
    """
    out = out or folder / "report.html"
    page = render(read_run(folder))
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def render(run: RunRecord) -> str:
    """Return the page; whatever comes from the run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    pictures, left_out = _embed(run.pictures)
    data = page_data(run)
    return environment.get_template("page.html.jinja").render(
        run=run,
        data=data,
        about=_about(run, data["phases"]["total"]),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        results=_tables(run.results.get("rows", []), run.results.get("final")),
        trouble=_trouble(run.evaluations),
        pictures=pictures,
        left_out=left_out,
        plotly=Markup(get_plotlyjs()),
    )


def _about(run: RunRecord, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what was run, in the words of the page."""
    strategy = run.config.get("strategy", {}).get("init_args", {})
    told = {key: value for key, value in run.settings.items() if key not in {"strategy", "seed", "tasks", "models"}}
    return {
        "base": run.config.get("model", {}).get("init_args", {}).get("base"),
        "final": run.results.get("final"),
        "seconds": sum(seconds.get(step, 0.0) for step in STEPS),
        "settings": {**strategy, **told},
        "version": run.results.get("cyqd", cyqd.__version__),
    }


def _tables(rows: Sequence[Mapping[str, Any]], final: str | None) -> list[dict[str, Any]]:
    """Arrange the results as tables: the scores, then the measures if there are any.

    Returns:
        By table ``columns`` and ``rows``: the model's ``name``, whether it is the ``final`` one, and ``cells``,
        each with its ``mean``, whether it is the ``best`` of its column, and ``low`` and ``high`` where known.
    """
    if not rows:
        return []
    sizes = {task: cell["n"] for task, cell in rows[0]["tasks"].items()}
    columns = [*((task, f"n = {n}") for task, n in sizes.items()), ("mean", "of the tasks")]
    tables = [_table(columns, [[*row["tasks"].values(), row["mean"]] for row in rows], rows, final)]
    measures = [(task, name) for task, means in rows[0].get("measures", {}).items() for name in means]
    if measures:
        cells = [[{"mean": row["measures"][task][name]} for task, name in measures] for row in rows]
        tables.append(_table(measures, cells, rows, final))
    return tables


def _table(
    columns: Sequence[tuple[str, str]],
    cells: Sequence[Sequence[Mapping[str, float]]],
    rows: Sequence[Mapping[str, Any]],
    final: str | None,
) -> dict[str, Any]:
    best = [max(cell["mean"] for cell in column) for column in zip(*cells, strict=True)]
    lines = [
        {
            "name": row["model"],
            "final": row["model"] == final,
            "cells": [{**cell, "best": cell["mean"] == top} for cell, top in zip(line, best, strict=True)],
        }
        for row, line in zip(rows, cells, strict=True)
    ]
    return {"columns": columns, "rows": lines}


def _trouble(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what broke as rows, worst first: ``problem``, ``kind``, ``times``, and the ``last`` reason."""
    found = troubles(lines)
    rows = [{"problem": name, "kind": kind, **times} for kind in found for name, times in found[kind].items()]
    return sorted(rows, key=lambda row: -row["times"])


def _embed(paths: Iterable[Path]) -> tuple[list[dict[str, str]], list[str]]:
    """Return pictures as data URLs, and the names of those for which there is no room."""
    pictures, left_out, size = [], [], 0
    for path in paths:
        content = path.read_bytes()
        if size + len(content) > PICTURE_BYTES:
            left_out.append(path.name)
            continue
        size += len(content)
        url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        pictures.append({"name": path.stem, "url": url})
    return pictures, left_out
