"""What the commands `evolve` and `test` do, and what every Trainer run here shares."""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

import cyqd
from cyqd.evolution import ExpertSpace, Genome, Roster, Strategy
from cyqd.evolution.storage import atomic_path, load_json, save_json
from cyqd.report.page import write_page
from cyqd.report.record import read_run, troubles
from cyqd.report.similarity import check_similarity
from cyqd.report.tables import markdown_table, results_row
from cyqd.training.evolution import Evolution
from cyqd.training.export import final_model, write_model
from cyqd.training.final import Final, further_results
from cyqd.training.host import EvaluationData, EvolutionHost
from cyqd.training.module import EvolvableModule
from cyqd.training.pictures import draw_pictures
from cyqd.training.scores import ScoreCache
from cyqd.training.splits import Split
from cyqd.training.strategies import EvaluationStrategy

HOST_ARGUMENTS: dict[str, Any] = {
    "max_epochs": 1,  # set by the callback
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": 0,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "log_every_n_steps": 1,
}
"""Trainer arguments that an evolution sets itself."""

HOST_OPTIONS = (
    "accelerator",
    "devices",
    "num_nodes",
    "precision",
    "logger",
    "callbacks",
    "plugins",
    "profiler",
    "default_root_dir",
    "deterministic",
    "benchmark",
    "inference_mode",
)
"""Trainer arguments that an evolution leaves to the user."""


def is_first_process() -> bool:
    """Tell whether this is the process that writes; also before the processes have met."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


class SetupError(Exception):
    """What the user must mend before the work can begin."""


@contextmanager
def clear_errors(trainer: L.Trainer, data: L.LightningDataModule) -> Iterator[None]:
    """Turn what fails before the first batch is through into one clear message; let environments go at once.

    Ctrl-C is given back, which after a failure Lightning leaves with a callback that had taken it.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except BaseException as error:
        if hasattr(data, "close"):
            data.close()  # else the interpreter would play all that is queued before it ends
        if not isinstance(error, (ValueError, OSError, RuntimeError, MisconfigurationException)):
            raise
        if trainer.fit_loop.epoch_loop.batch_progress.total.completed > 1:
            raise
        raise SetupError(str(error)) from error
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def open_space(
    model: EvolvableModule, experts: Mapping[str, Path], *, rank: int | None = None, key: str = "experts"
) -> ExpertSpace:
    """Open a base and its experts, and check that they belong together.

    The first process also reads all weights once, to check that they are finite and to know them again.

    Args:
        model: the live module, for its base and the names of what evolves.
        experts: folders by task.
        rank: keep at most this many singular directions of each matrix.
        key: what errors call ``experts``.

    Raises:
        FileNotFoundError: if a model is missing.
        ValueError: if an expert does not fit the base, or holds NaN or infinite weights.
    """
    for name, path in experts.items():
        if not path.exists():
            raise FileNotFoundError(f"{key}.{name}: there is no model at {path}; fit it first, or mend the path")
        model.check_compatible(model.base, path)
    base = model.read_weights(model.base)
    weights = [model.read_weights(path) for path in experts.values()]
    space = ExpertSpace(base, weights, list(experts), names=model.evolved_parameters(), rank=rank)
    if is_first_process():
        size = sum(base[name].nbytes for name in space.names) * (1 + len(weights))
        with tqdm(total=size, desc="reading models", unit="B", unit_scale=True, leave=False) as bar:
            models = [("base", base), *((f"{key}.{name}", w) for name, w in zip(experts, weights, strict=True))]
            space.identity = " ".join(space.fingerprint(w, label=label, progress=bar.update) for label, w in models)
    return space


def narrow(space: ExpertSpace, tasks: Sequence[str]) -> ExpertSpace:
    """Return the space of some of a space's experts."""
    picked = [space.tasks.index(task) for task in tasks]
    experts = [space.experts[k] for k in picked]
    part = ExpertSpace(space.base, experts, list(tasks), names=space.names, rank=space.rank)
    base, *others = space.identity.split() or [""]
    part.identity = " ".join([base, *(others[k] for k in picked)]) if others else ""
    return part


def evolve(
    model: EvolvableModule,
    data: L.LightningDataModule,
    space: ExpertSpace,
    strategy: Strategy,
    *,
    run: Path,
    seed: int,
    trainer_arguments: Mapping[str, Any],
    final_rule: str,
    cache: Path,
    final: Final | None = None,
    resident: bool = False,
    scores: ScoreCache | None = None,
) -> tuple[list[dict[str, Any]], bool]:
    """Evolve, score what came out on the test split, and write the run's folder (design, section 7).

    Args:
        model: the live module; its weights are overwritten.
        data: evaluation problems.
        space: the base and its experts.
        strategy: the search.
        run: the run's folder; a state in it is continued.
        seed: seed of the search.
        trainer_arguments: of the hosting Trainer.
        final_rule: which result becomes ``run/model``, of the strategy's or of the further rules.
        cache: where singular bases are kept.
        final: the further rules; by default there are none.
        resident: hold base, experts and singular bases on the device.
        scores: where scores of models that were evaluated before are found; by default all are evaluated.

    Returns:
        The rows of the results table, and whether Ctrl-C ended the search.
    """
    common: dict[str, Any] = {"space": space, "seed": seed, "cache": cache, "resident": resident, "scores": scores}
    final = final or Final()
    folder = run / "evolution" / "state"
    search = Evolution(strategy, folder=folder, history=run / "history.jsonl", title="evolve", **common)
    callbacks = [search, ExpertCheck(space, run / "similarity.json")]
    trainer, host, problems = host_trainer(model, data, "optimisation", callbacks, trainer_arguments)
    with clear_errors(trainer, data):
        trainer.fit(host, datamodule=problems)
    results = dict(strategy.result())
    if not results:
        raise SystemExit("interrupted before the experts were scored; continue with --ckpt_path last")
    apart = {"arguments": {**trainer_arguments, "logger": False}, **common}
    folder, stamp = run / "evolution", f"{strategy.evaluated:06d}{final.tag}"
    candidates, judged = final.candidates(strategy, results), []
    if candidates:
        judged = score(model, data, candidates, folder=folder / f"selection-{stamp}", split="selection", **apart)
    selection = final.choose(strategy, judged)
    results |= further_results(strategy, results, selection.get("chosen", {}))
    name = type(strategy).__name__
    models = {"base": space.origin()}
    models |= {f"expert {task}": space.expert(k) for k, task in enumerate(space.tasks)}
    models |= {"task-vector average": space.mean()}
    models |= {f"{name} {rule}": genome for rule, genome in results.items() if rule not in models}
    records = score(model, data, models, folder=folder / f"test-{stamp}", **apart)
    rows = [results_row(record["model"], record) for record in records]
    if is_first_process():
        winner = final_rule if final_rule in models else f"{name} {final_rule}"
        about = {
            "evaluations": strategy.evaluated,
            "budget": strategy.budget,
            "rescored": len(judged),
            **({"selection": selection} if selection else {}),
            "seed": seed,
            "final": winner,
        }
        write_results(run, rows, {**about, "evolution": troubles(read_history(run / "history.jsonl"))})
        pictures = draw_pictures(model, data, space, results[final_rule], records, winner, run / "pictures")
        for logger in (logger for logger in trainer.loggers if hasattr(logger, "log_image")):
            for path in pictures:
                logger.log_image(key=f"pictures/{path.stem}", images=[str(path)])
        made = "python -m cyqd evolve --config config.yaml"
        record = read_run(run)
        write_model(model, final_model(strategy, final_rule, results, record), record, run / "model", made=made)
        write_page(run)
    return rows, search.interrupted


def score(
    model: EvolvableModule,
    data: L.LightningDataModule,
    models: Mapping[str, Genome],
    *,
    folder: Path,
    arguments: Mapping[str, Any],
    split: Split = "test",
    **common: Any,
) -> list[dict[str, Any]]:
    """Score models on a split; continues where a killed process stopped, if the models are the same.

    Returns:
        One line of a history per model; its ``outcomes`` are the scores by problem.
    """
    roster = Roster(models)
    history = folder / "history.jsonl"
    callback = Evolution(
        roster, folder=folder, history=history, title=split, patient=False, by_problem=True, **common
    )
    trainer, host, problems = host_trainer(model, data, split, [callback], arguments)
    with clear_errors(trainer, data):
        trainer.fit(host, datamodule=problems)
    records = read_history(history)
    if len(records) < len(models):
        raise SystemExit(f"interrupted with {len(records)} of {len(models)} models scored on the {split} split")
    return records


class ExpertCheck(L.Callback):
    """Compares the experts before the first model is bred, and warns of what makes merging hopeless.

    Args:
        space: the experts; their singular values are compared if the strategy has prepared them.
        path: keeps what :func:`cyqd.report.similarity.check_similarity` found; if it is of these very weights, the
            check has been made.
    """

    def __init__(self, space: ExpertSpace, path: Path) -> None:
        self.space = space
        self.path = path

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check, on the first process."""
        if not trainer.is_global_zero:
            return
        if self.path.exists() and load_json(self.path).get("weights") == self.space.identity:
            return
        found = check_similarity(self.space)
        save_json(self.path, {"weights": self.space.identity, **found})
        for warning in found.get("warnings", ()):
            tqdm.write(f"warning: {warning}")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def unsolved(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the ids of the problems that no model solved at all, by task; those that broke for any are left out.

    Args:
        records: lines of a history with ``outcomes``, one per model, all on the same problems.
    """
    found: dict[str, list[str]] = {task: [] for task in records[0]["scores"]}
    for problem in records[0]["outcomes"]:
        broke = any(problem in record.get("faults", {}) for record in records)
        if not broke and not any(record["outcomes"][problem] for record in records):
            task, _, name = problem.partition("/")
            found[task].append(name)
    return found


def host_trainer(
    model: EvolvableModule,
    data: L.LightningDataModule,
    split: Split,
    callbacks: Sequence[L.Callback],
    arguments: Mapping[str, Any],
) -> tuple[L.Trainer, EvolutionHost, EvaluationData]:
    """Build what ``Trainer.fit`` needs to host a strategy.

    Args:
        model: the domain's module.
        data: the domain's data.
        split: what to score on.
        callbacks: the evolution, and what belongs to it.
        arguments: of the Trainer, of those in :data:`HOST_OPTIONS`.
    """
    own = arguments.get("callbacks") or []
    own = own if isinstance(own, list) else [own]
    arguments = {**arguments, **HOST_ARGUMENTS, "callbacks": [*callbacks, *own]}
    try:
        trainer = L.Trainer(**arguments)
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets it itself
            os.environ["LOCAL_WORLD_SIZE"] = str(trainer.num_devices)  # by which environments share the CPUs
        if trainer.world_size > 1:
            trainer = L.Trainer(**arguments, strategy=EvaluationStrategy())
    except MisconfigurationException as error:
        raise SetupError(f"trainer: {error}") from error
    return trainer, EvolutionHost(model), EvaluationData(data, split)


def write_results(folder: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write results.json and results.md."""
    machine = {"python": platform.python_version(), "cyqd": cyqd.__version__, "machine": platform.machine()}
    save_json(folder / "results.json", {**about, **machine, "rows": list(rows)})
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(markdown_table(rows) + "\n", encoding="utf-8")
