"""What W&B is told of an evolution: tables from which its archives can be rebuilt, images, results, artifacts.

Under which keys, at step = generation:

- ``archive/maps`` (image), ``archive/TASK/cells`` and ``elites`` (tables): :func:`archive_content`.
- ``similarity/*``, ``results/*``, ``report``: :func:`results_content`; the artifacts: :func:`evolution_artifacts`.
- ``pairs/*``: :func:`pairs_content`.

The numbers of every generation are :func:`cyqd.report.metrics.generation_metrics`.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import wandb
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from pydantic import ValidationError
from wandb.sdk.lib import wbauth

from cyqd.evolution.storage import load_json
from cyqd.report.figures import archive_figure
from cyqd.report.pairs import pair_row
from cyqd.report.record import STATE, RunRecord
from cyqd.report.stored import run_logs

FLUSH = 1.0
"""Seconds after which W&B has written to disk what it was told; W&B's own 15 are what a kill would cost."""


def require_key() -> None:
    """Check that W&B's API key is known and looks like one, without asking for it.

    Raises:
        ValueError: if it does not.
    """
    host = wandb.setup(settings()).settings.base_url
    try:
        known = wbauth.authenticate_session(host=host, source="cyqd", prompt=False)
    except wandb.Error as error:
        raise ValueError(
            f"wandb.mode: 'online' needs an API key of {host}: {error}; 'offline' needs none"
        ) from error
    if not known:
        raise ValueError(
            f"wandb.mode: 'online' needs an API key of {host}: run `wandb login`, or set WANDB_API_KEY; "
            "'offline' needs none"
        )


def start_run(
    folder: Path, *, id: str, mode: Literal["online", "offline"], config: Mapping[str, Any], **options: Any
) -> wandb.Run:
    """Start or resume a W&B run that says nothing on the terminal and never asks.

    Args:
        folder: the local data lie in its ``wandb/``.
        id: of the run.
        mode: where it goes.
        config: what ran.
        options: more of ``wandb.init``'s.

    Raises:
        ValueError: as :func:`require_key`, if it shall go online.
        ConnectionError: if W&B cannot be reached.
    """
    if mode == "online":
        require_key()
        # Without a network, W&B waits long.
        print(f"W&B: connecting to {wandb.setup().settings.base_url}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return wandb.init(
            id=id,
            mode=mode,
            dir=folder,
            resume="allow",
            reinit="create_new",
            config=dict(config),
            settings=settings(),
            **options,
        )
    except wandb.Error as error:
        hint = "; 'offline' needs no connection" if mode == "online" else ""
        raise ConnectionError(f"W&B cannot start: {error}{hint}") from error


def settings(**options: Any) -> wandb.Settings:
    """Return W&B's settings, quiet and soon on disk.

    Raises:
        ValueError: if W&B refuses one of the options.
    """
    try:
        return wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=FLUSH, **options)
    except ValidationError as error:
        said = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise ValueError(f"wandb: {said}") from error
    except wandb.Error as error:
        raise ValueError(f"wandb: {error}") from error


def finish_run(run: wandb.Run, folder: Path, *, failed: bool) -> str:
    """Finish a run: everything is on disk, and uploaded if it is online.

    Returns:
        One line that says where it lies and how to upload it.
    """
    sync = "wandb sync " + " ".join(shlex.quote(str(path.parent)) for path in run_logs(folder, run.id))
    if not run.offline:  # without a network W&B would wait for it for hours
        print(f"W&B: uploading to {run.url}; Ctrl-C leaves the rest to: {sync}", flush=True)
    run.finish(exit_code=int(failed))
    return f"W&B: offline; upload with: {sync}" if run.offline else f"W&B: {run.url}"


def archive_content(record: RunRecord, evaluations: int) -> dict[str, Any]:
    """Return the archives' row: one picture, a table for each, and a table of all elites with their lineage.

    Args:
        record: of the evolution.
        evaluations: as they were after so many evaluations; nothing before all experts are scored.
    """
    tasks, archives = record.tasks, record.archives(evaluations)
    if not archives or evaluations < len(record.experts):
        return {}
    content: dict[str, Any] = {}
    scores, shares = ([f"{kind} {task}" for task in tasks] for kind in ("score", "share"))
    lineage = ["expert", "parents", "coefficients"]
    elites = wandb.Table(["archive", "cell", "model", "generation", *scores, "mean", *lineage, *shares])
    for archive in archives:
        axes = [task for k, task in enumerate(tasks) if k != archive.task]
        cells = wandb.Table([*(f"bin {axis}" for axis in axes), "quality", "model"])
        for cell, elite in sorted(archive.cells.items()):
            line = record.evaluations[elite.id]
            cells.add_data(*cell, archive.quality(elite), elite.id)
            elites.add_data(
                *(tasks[archive.task], json.dumps(cell), elite.id, line["generation"], *elite.scores, elite.mean),
                *(line.get("expert", ""), *(json.dumps(line.get(key, [])) for key in ("parents", "coefficients"))),
                *(record.shares[elite.id] or [None] * len(tasks)),
            )
        content[f"archive/{tasks[archive.task]}/cells"] = cells
    experts = [record.elites[number] for number in record.experts.values()]
    return {**content, "elites": elites, "archive/maps": _image(archive_figure(archives, tasks, experts))}


def results_content(record: RunRecord) -> dict[str, Any]:
    """Return the last row of an evolution with results, whose page lies in its folder: its archives among them."""
    tasks, rows = record.tasks, record.results["rows"]
    parts = ("mean", "low", "high")
    columns = [f"{task} {part}" for task in tasks for part in (*parts, "n")]
    results = wandb.Table(["model", *columns, *parts])
    for row in rows:
        cells = [row["tasks"][task][part] for task in tasks for part in (*parts, "n")]
        results.add_data(row["model"], *cells, *(row["mean"][part] for part in parts))
    content = archive_content(record, len(record.evaluations))
    content |= {"results/table": results, **_similarity(record)}
    if (page := record.folder / "report.html").exists():
        content["report"] = wandb.Html(page)
    return content


def final_scores(record: RunRecord) -> dict[str, float]:
    """Return what the summary says of the final model."""
    final = next(row for row in record.results["rows"] if row["model"] == record.results["final"])
    scores = {task: final["tasks"][task]["mean"] for task in record.tasks} | {"mean": final["mean"]["mean"]}
    return {f"results/final/{name}": score for name, score in scores.items()}


def pairs_content(folder: Path) -> dict[str, Any]:
    """Return how pairs of experts compare, from ``folder``/pairs.json: a table, and the picture of it."""
    pairs = _pairs(load_json(folder / "pairs.json")["pairs"])
    return {"pairs/table": pairs, "pairs/scatter": wandb.Image(str(folder / "pairs.png"))}


def pairs_correlation(folder: Path) -> dict[str, float | None]:
    """Return what the summary says of the pairs."""
    correlation = load_json(folder / "pairs.json")["correlation"]
    return {f"pairs/r/{model}": found["r"] for model, found in correlation.items()}


def _similarity(record: RunRecord) -> dict[str, Any]:
    """Return each pair's similarity, their matrix, and what merging keeps of the scores against it."""
    similarity = record.known_similarities
    if not similarity:
        return {}
    tasks = record.tasks
    matrix = wandb.Table(["expert", *tasks])
    both: dict[tuple[str, str], float | None] = {(task, task): 1.0 for task in tasks}
    for a, b in combinations(tasks, 2):
        both[a, b] = both[b, a] = similarity.get(f"{a}+{b}")
    for task in tasks:
        matrix.add_data(task, *(both[task, other] for other in tasks))
    pairs = _pairs(pair_row(pair, record.results, record.similarity) for pair in combinations(tasks, 2))
    return {
        **{f"similarity/{pair}": value for pair, value in similarity.items()},
        "similarity/matrix": matrix,
        "similarity/pairs": pairs,
        "similarity/scatter": wandb.plot.scatter(
            pairs, "similarity", "mean", title="score of the merged model / the experts', by similarity"
        ),
    }


def _pairs(rows: Iterable[Mapping[str, Any]]) -> wandb.Table:
    """Return rows of :func:`pair_row` as a table, one row for every kind of merged model."""
    table = wandb.Table(["pair", "merged by", "similarity", "first", "second", "mean"])
    for row in rows:
        for model, kept in row["merged"].items():
            scores = (kept[task] for task in row["pair"])
            table.add_data("+".join(row["pair"]), model, row["similarity"], *scores, kept["mean"])
    return table


def _image(figure: Figure) -> wandb.Image:
    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png", dpi=200)
    return wandb.Image(Image.open(picture))


def evolution_artifacts(record: RunRecord, id: str) -> list[wandb.Artifact]:
    """Return a finished evolution and its model as artifacts, and base and experts, only referred to, as inputs.

    Files are taken from where they lie, not copied: W&B uploads them from there. An evolution that is extended
    later changes them and makes another version when it ends; of the version before, what was not uploaded by then
    is lost.

    Args:
        record: of the evolution, with results.
        id: of the W&B run.
    """
    sources = {"base": record.config["model"]["init_args"]["base"], **record.config["experts"]}
    names = ["base", *record.tasks]
    prints = record.settings["models"].split() or [""] * len(names)
    made_from = {
        name: {"path": str(sources[name]), "weights": kept} for name, kept in zip(names, prints, strict=True)
    }
    artifacts = []
    for name, source in made_from.items():
        artifact = wandb.Artifact(_name(name if name == "base" else f"expert-{name}"), "model", metadata=source)
        if (path := Path(source["path"])).exists():
            artifact.add_reference(path.resolve().as_uri(), name="weights", checksum=False)
        with artifact.new_file("source.json") as file:  # so that other weights under this path are another version
            json.dump(source, file)
        artifacts.append(artifact)
    state = record.folder / STATE
    kept = [state, record.folder / "history.jsonl", *sorted((state.parent / "genomes").glob("*.safetensors"))]
    about = {"evaluations": len(record.evaluations), "made_from": made_from}
    artifacts.append(_files("evolution", f"evolution-{id}", record.folder, kept, about))
    files = sorted(path for path in (record.folder / "model").rglob("*") if path.is_file())
    about = {**about, "final": record.results["final"]}
    return [*artifacts, _files("model", f"model-{id}", record.folder / "model", files, about)]


def log_artifact(run: wandb.Run, artifact: wandb.Artifact) -> None:
    """Log one of :func:`evolution_artifacts`; an input has a ``path``."""
    # What use_artifact does, which refuses offline although `wandb sync` can tell it to the server later.
    run._log_artifact(artifact, is_user_created=True, use_after_commit="path" in artifact.metadata)


def _files(kind: str, name: str, root: Path, files: Sequence[Path], metadata: Mapping[str, Any]) -> wandb.Artifact:
    artifact = wandb.Artifact(name, kind, metadata=dict(metadata))
    for path in files:
        artifact.add_file(str(path), str(path.relative_to(root)), skip_cache=True, policy="immutable")
    return artifact


def _name(text: str) -> str:
    """Return an artifact's name: W&B allows letters, digits, dots, dashes and underscores only."""
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text)
    return clean if clean == text else f"{clean}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
