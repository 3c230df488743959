"""The command line: ``python -m cyqd {fit,evolve,test}``."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException

import cyqd
from cyqd.evolution import GenomeStore, Strategy
from cyqd.evolution.storage import atomic_path, load_json
from cyqd.report.tables import markdown_table
from cyqd.training import EvolvableModule
from cyqd.training.run import (
    HOST_OPTIONS,
    SetupError,
    evolve,
    fit,
    is_first_process,
    open_space,
    score,
    write_results,
)


class Parser(ArgumentParser):
    """Says what is wrong in one message, without the pages of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with exit code 2."""
        print(f"error: {message}\nhelp: {self.prog.replace(' [options]', '')} --help", file=sys.stderr)
        raise SystemExit(2)


def fit_parser() -> Parser:
    """Return the arguments of ``fit``."""
    parser = _parser("Fine-tune one expert.")
    parser.add_class_arguments(L.Trainer, "trainer")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the expert to")
    parser.add_argument("--ckpt_path", type=str, help="Lightning checkpoint to continue from, or 'last'")
    parser.link_arguments("out", "trainer.default_root_dir")  # logs and checkpoints lie beside the expert
    parser.set_defaults({"trainer.enable_model_summary": False})
    return parser


def evolve_parser() -> Parser:
    """Return the arguments of ``evolve``."""
    parser = _parser("Evolve merged models from experts.")
    fixed = {name for name in inspect.signature(L.Trainer.__init__).parameters if name not in HOST_OPTIONS}
    parser.add_class_arguments(L.Trainer, "trainer", skip=fixed - {"self"}, instantiate=False)
    parser.set_defaults({"trainer.logger": False})
    parser.add_argument("--experts", type=dict[str, Path], required=True, help="each task's expert, by task name")
    parser.add_subclass_arguments(Strategy, "strategy", default={"class_path": "cyqd.evolution.CycleQD"})
    parser.add_argument("--run", type=Path, required=True, help="folder to write the run to")
    parser.add_argument(
        "--ckpt_path",
        type=str,
        help="continue the run in this folder; 'last' continues the one in `run`, if any; `test` starts afresh",
    )
    parser.add_argument(
        "--final_rule", type=str, help="which result becomes `run`/model; the strategy's first by default"
    )
    parser.add_argument("--cache", type=Path, help="where singular bases are kept; beside the run by default")
    parser.add_argument(
        "--rank", type=PositiveInt, help="keep at most this many singular directions of each matrix"
    )
    parser.add_argument("--resident", type=bool, default=False, help="hold base and experts on the device")
    return parser


def _parser(description: str) -> Parser:
    classes = (
        "Arguments of a class: for example --strategy.help cyqd.evolution.CycleQD; likewise --model.help CLASS."
    )
    parser = Parser(description=f"{description} {classes}")
    parser.add_argument("--config", action="config", help="YAML file with any of the arguments below")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    parser.add_argument(
        "--threads", type=PositiveInt, help="CPU threads per process; PyTorch's default, all cores, if not given"
    )
    parser.add_subclass_arguments(EvolvableModule, "model", required=True)
    parser.add_subclass_arguments(L.LightningDataModule, "data", required=True)
    return parser


def test_parser() -> Parser:
    """Return the arguments of ``test``: those of ``evolve``, so that its configs serve, and the models."""
    parser = evolve_parser()
    parser.description = "Score models on the test split, with a config of `evolve`."
    parser.add_argument("--models", type=Path, required=True, nargs="+", help="folders of the models")
    parser.add_argument("--out", type=Path, help="folder to write results.json and results.md to")
    return parser


def run_fit(arguments: Namespace, config: str) -> Callable[[], object]:
    """Prepare ``fit``."""
    out: Path = arguments.out
    _save_config(out, config)
    record = {"base": str(arguments.model.base), "seed": arguments.seed, "tasks": _task_names(arguments.data)}
    return lambda: fit(
        arguments.model,
        arguments.data,
        arguments.trainer,
        out=out,
        ckpt_path=arguments.ckpt_path,
        record=record,
    )


def run_evolve(arguments: Namespace, config: str) -> Callable[[], object]:
    """Prepare ``evolve``: everything that can be wrong is found here, before any work."""
    run: Path = arguments.run
    strategy: Strategy = arguments.strategy
    rule = arguments.final_rule or strategy.rules[0]
    if rule not in strategy.rules:
        raise ValueError(f"final_rule: expected one of {', '.join(strategy.rules)}, got {rule}")
    tasks = _task_names(arguments.data)
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"data: every task needs a name of its own, got {tasks}")
    if len(tasks) < 2:
        raise ValueError(f"data: evolving needs at least two tasks, got {len(tasks)}: {tasks}")
    if set(arguments.experts) != set(tasks):
        raise ValueError(f"experts: expected one for each task {tasks}, got {list(arguments.experts)}")
    state = _state_to_continue(run, arguments.ckpt_path)
    space = open_space(arguments.model, {task: arguments.experts[task] for task in tasks}, rank=arguments.rank)
    if state and is_first_process():
        _check_same_evaluation(run / "config.yaml", config)
        strategy.setup(space, GenomeStore(state.parent / "genomes", space), arguments.seed)
        strategy.check_settings(load_json(state))
    _save_config(run, config)

    def work() -> None:
        rows = evolve(
            arguments.model,
            arguments.data,
            space,
            strategy,
            run=run,
            seed=arguments.seed,
            trainer_arguments=vars(arguments.trainer),
            final_rule=rule,
            cache=arguments.cache or run.parent / ".singular_bases",
            resident=arguments.resident,
        )
        _show(rows, f"run: {run}")

    return work


def run_test(arguments: Namespace, config: str) -> Callable[[], object]:
    """Prepare ``test``: the models take the experts' place."""
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
        rows = score(
            arguments.model,
            arguments.data,
            {label: space.expert(k) for k, label in enumerate(labels)},
            folder=folder,
            arguments=vars(arguments.trainer),
            space=space,
            seed=arguments.seed,
            cache=out,
        )
        if is_first_process():
            write_results(out, rows, {})
        _show(rows, f"results: {out / 'results.md'}")

    return work


QUIET = (
    ".*configure_optimizers. returned .None.*",
    ".*overridden .transfer_batch_to_device.*",
    ".*does not have many workers.*",
    ".*has zero length.*",
    ".*across ranks is zero.*",
    ".*LeafSpec.*",
)
"""Warnings that are true of every run here and ask nothing of the user."""

COMMANDS = {
    "fit": (fit_parser, run_fit),
    "evolve": (evolve_parser, run_evolve),
    "test": (test_parser, run_test),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; bad input ends it with one message and exit code 2, before any work."""
    parser = Parser(prog="python -m cyqd", description=cyqd.__doc__, version=cyqd.__version__)
    commands = parser.add_subcommands(dest="command")
    parsers = {name: make() for name, (make, _) in COMMANDS.items()}
    for name, command in parsers.items():
        commands.add_subcommand(name, command)
    config = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    name = config.command
    L.seed_everything(config[name].seed, verbose=False)
    if config[name].threads:
        torch.set_num_threads(config[name].threads)
        os.environ["OMP_NUM_THREADS"] = str(config[name].threads)  # else Lightning chooses for several processes
    work = None
    try:
        arguments = parser.instantiate(config)[name]
        work = COMMANDS[name][1](arguments, parsers[name].dump(config[name], skip_validation=True))
        work()
    except (ValueError, OSError, ImportError, MisconfigurationException) as error:
        if work is not None:
            raise
        parser.error(str(error))
    except SetupError as error:
        if os.environ.get("CYQD_DEBUG"):
            raise
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")


def _task_names(data: L.LightningDataModule) -> list[str]:
    return [task.name for task in getattr(data, "tasks", ())]


def _state_to_continue(run: Path, ckpt_path: str | None) -> Path | None:
    """Find the state to continue; a run is neither overwritten by mistake nor continued where there is none."""
    state = run / "evolution" / "state" / "state.json"
    if ckpt_path is None:
        if state.exists() and is_first_process():
            raise ValueError(
                f"run: {run} already holds an evolution; continue it with --ckpt_path last, or choose another --run"
            )
    elif ckpt_path != "last":
        if Path(ckpt_path).resolve() not in [path.resolve() for path in (state, *state.parents[:3])]:
            raise ValueError(f"ckpt_path: expected 'last' or {run} (the run given by `run`), got {ckpt_path}")
        if not state.exists():
            raise FileNotFoundError(
                f"ckpt_path: there is no evolution at {state}; leave --ckpt_path out to start one"
            )
    return state if ckpt_path and state.exists() else None


def _check_same_evaluation(saved: Path, config: str) -> None:
    """Check that a continued run scores models as it did before: scores of two kinds do not mix in an archive."""
    before, now = yaml.safe_load(saved.read_text(encoding="utf-8")), yaml.safe_load(config)
    for key in ("model", "data", "trainer.precision", "trainer.accelerator"):
        section, *option = key.split(".")
        was, is_now = (each[section].get(option[0]) if option else each[section] for each in (before, now))
        if was != is_now:
            raise ValueError(f"cannot continue: `{key}` is no longer what {saved} says; choose another --run")


def _save_config(folder: Path, config: str) -> None:
    if is_first_process():
        with atomic_path(folder / "config.yaml") as temporary:
            temporary.write_text(config, encoding="utf-8")


def _show(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    if is_first_process():
        print(f"\n{markdown_table(rows)}\n\n{where}")


if __name__ == "__main__":
    main()
