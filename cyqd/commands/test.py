"""Score models on the test split, with a config of `evolve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from cyqd.commands import evolve
from cyqd.commands._common import Parser, show
from cyqd.evolution.storage import save_json
from cyqd.report.record import troubles
from cyqd.report.tables import results_row
from cyqd.training.run import is_first_process, open_space, score, unsolved, write_results


def parser() -> Parser:
    """Return the arguments of ``test``: those of ``evolve``, so that its configs serve, and the models."""
    parser = evolve.parser()
    parser.description = "Score models on the test split, with a config of `evolve`."
    parser.add_argument("--models", type=Path, required=True, nargs="+", help="folders of the models")
    parser.add_argument("--out", type=Path, help="folder to write results.json and results.md to")
    parser.add_argument(
        "--split",
        choices=["test", "optimisation"],
        default="test",
        help="which half of the problems; `optimisation` also writes unsolved.json, the ids that no model solves, "
        "which a task's `exclude` takes",
    )
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``test``: the models take the experts' place."""
    arguments = parser.instantiate(config)
    labels = [str(path) for path in arguments.models]
    if len(set(labels)) < len(labels):
        raise ValueError(f"models: expected different folders, got {labels}")
    space = open_space(arguments.model, dict(zip(labels, arguments.models, strict=True)), key="models")
    out: Path = arguments.out or arguments.run / "test"
    folder = out / "scores"
    if is_first_process():
        for name in ("state.json", "history.jsonl"):  # of an earlier test
            (folder / name).unlink(missing_ok=True)

    def work() -> None:
        records = score(
            arguments.model,
            arguments.data,
            {label: space.expert(k) for k, label in enumerate(labels)},
            folder=folder,
            arguments=vars(arguments.trainer),
            space=space,
            seed=arguments.seed,
            cache=out,
            split=arguments.split,
        )
        rows = [results_row(record["model"], record) for record in records]
        if is_first_process():
            write_results(out, rows, {"split": arguments.split, "trouble": troubles(records)})
            if arguments.split == "optimisation":
                save_json(out / "unsolved.json", unsolved(records))
        show(rows, f"results: {out / 'results.md'}")

    return work
