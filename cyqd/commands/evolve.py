"""Evolve merged models from experts."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from cyqd.commands._common import Parser, model_parser, save_config, show, task_names
from cyqd.evolution import ExpertSpace, GenomeStore, Strategy
from cyqd.evolution.storage import load_json, save_json
from cyqd.report.pairs import write_pairs
from cyqd.training.final import Final
from cyqd.training.run import HOST_OPTIONS, evolve, is_first_process, narrow, open_space
from cyqd.training.scores import ScoreCache, evaluation_fingerprint
from cyqd.training.tracking import Wandb, check_wandb, join_loggers, wandb_logger

REQUIRED = ("model", "data", "experts", "run")

JUDGING = ("model", "data", "trainer.precision", "trainer.accelerator")
"""What decides a model's scores, of all that the user sets; the number of processes does not."""


def parser(*, required: Collection[str] = REQUIRED) -> Parser:
    """Return the arguments of ``evolve``, some of them required."""
    parser = model_parser("Evolve merged models from experts.", required=required)
    fixed = {name for name in inspect.signature(L.Trainer.__init__).parameters if name not in HOST_OPTIONS}
    parser.add_class_arguments(L.Trainer, "trainer", skip=fixed - {"self"}, instantiate=False)
    parser.set_defaults({"trainer.logger": False})
    parser.add_argument(
        "--experts", type=dict[str, Path], required="experts" in required, help="each task's expert, by task name"
    )
    parser.add_subclass_arguments(Strategy, "strategy", default={"class_path": "cyqd.evolution.CycleQD"})
    parser.add_argument("--only", type=list[str], help="evolve the experts of these tasks alone")
    parser.add_argument(
        "--pairs",
        type=bool,
        default=False,
        help="evolve every pair of experts on its own, in `run`/A+B, and compare the pairs with their similarity",
    )
    parser.add_argument("--run", type=Path, required="run" in required, help="folder to write the run to")
    parser.add_argument(
        "--ckpt_path",
        type=str,
        help="continue the run in this folder; 'last' continues the one in `run`, if any; `test` starts afresh",
    )
    parser.add_argument(
        "--final_rule",
        type=str,
        help="which result becomes `run`/model: the strategy's, `rescored` or `scaled`; the strategy's first by "
        "default",
    )
    parser.add_class_arguments(Final, "final")
    parser.add_argument(
        "--cache", type=Path, help="where singular bases and scores are kept; beside the run by default"
    )
    parser.add_argument(
        "--reuse_scores",
        type=bool,
        default=True,
        help="evaluate no model that a run with the same cache has evaluated on the same problems by the same "
        "code; it still counts as an evaluation",
    )
    parser.add_argument(
        "--rank", type=PositiveInt, help="keep at most this many singular directions of each matrix"
    )
    parser.add_class_arguments(Wandb, "wandb")
    parser.add_argument("--resident", type=bool, default=False, help="hold base and experts on the device")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``evolve``: everything that can be wrong is found here, before any work."""
    arguments = parser.instantiate(config)
    check_wandb(arguments.wandb)
    tasks = evolved_tasks(arguments)
    space = open_space(arguments.model, {task: arguments.experts[task] for task in tasks}, rank=arguments.rank)
    if not arguments.pairs:
        return _prepare_run(config, parser, arguments, space)
    pairs = list(combinations(tasks, 2))
    parts = {}
    for pair in pairs:
        part = config.clone()
        part.only, part.pairs, part.run = list(pair), False, arguments.run / "+".join(pair)
        parts[pair] = _prepare_run(part, parser, arguments, narrow(space, pair))

    def work() -> None:
        for number, pair in enumerate(pairs, start=1):
            if is_first_process():
                print(f"\npair {number} of {len(pairs)}: {' + '.join(pair)}", flush=True)
            if parts.pop(pair)():  # what it holds on the device goes with it
                raise SystemExit(f"interrupted in {arguments.run / '+'.join(pair)}; continue with --ckpt_path last")
        if is_first_process():
            print(f"\n{write_pairs(arguments.run, pairs)}\n\npairs: {arguments.run}")
            names = {"name": arguments.run.name, "group": arguments.run.name, "job_type": "pairs"}
            resume = arguments.ckpt_path is not None
            about = config.wandb.as_dict()
            tracker = wandb_logger(arguments.wandb, arguments.run, config=about, resume=resume, **names)
            if tracker is not None:
                with tracker:
                    tracker.log_pairs()

    return work


def evolved_tasks(arguments: Namespace) -> list[str]:
    """Return the tasks whose experts are evolved, in the data's order."""
    tasks = task_names(arguments.data)
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"data: every task needs a name of its own, got {tasks}")
    only = tasks if arguments.only is None else arguments.only
    if not set(only) <= set(tasks):
        raise ValueError(f"only: expected some of the tasks {tasks}, got {only}")
    if len(set(only)) < len(only):
        raise ValueError(f"only: expected every task once, got {only}")
    if unfit := [task for task in tasks if "+" in task or (arguments.pairs and Path(task).name != task)]:
        raise ValueError(f"data: a pair of tasks is called A+B, which the name of task {unfit[0]!r} does not allow")
    if len(only) < 2:
        key = "data" if only is tasks else "only"
        raise ValueError(f"{key}: evolving needs at least two tasks, got {len(only)}: {only}")
    if set(arguments.experts) != set(tasks):
        raise ValueError(f"experts: expected one for each task {tasks}, got {list(arguments.experts)}")
    return [task for task in tasks if task in only]


def _prepare_run(config: Namespace, parser: Parser, arguments: Namespace, space: ExpertSpace) -> Callable[[], bool]:
    """Prepare one evolution, of the experts in ``space``; its work returns whether Ctrl-C ended it."""
    text = parser.dump(config, skip_validation=True)
    run = Path(config.run)
    own = Namespace(trainer=config.trainer)  # type: ignore[no-untyped-call] # a run has loggers of its own
    strategy: Strategy = copy.deepcopy(arguments.strategy)
    data = copy.copy(arguments.data)
    data.tasks = [task for task in data.tasks if task.name in space.tasks]
    splits = data.splits() if hasattr(data, "splits") else {}
    arguments.final.check(strategy, arguments.final_rule, data, splits)
    state = state_to_continue(run, arguments.ckpt_path, arguments.run)
    budget = None
    if state and is_first_process():
        _check_same_evaluation(run / "config.yaml", text)
        _check_same_problems(run / "splits.json", splits)
        strategy.setup(space, GenomeStore(state.parent / "genomes", space), arguments.seed)
        strategy.check_settings(load_json(state))
        budget = strategy.budget
    root = arguments.run.parent
    scores = None
    if arguments.reuse_scores and splits:
        judging = {key: _setting(yaml.safe_load(text), key) for key in JUDGING}
        known = evaluation_fingerprint([judging, splits], arguments.model, data)
        scores = ScoreCache(arguments.cache / "scores" if arguments.cache else root / ".scores", known)

    def work() -> bool:
        save_config(run, text)
        if is_first_process():
            save_json(run / "splits.json", splits)
        group = run.parent.name if arguments.pairs else None
        trainer_arguments = vars(parser.instantiate(own).trainer)
        tracker = wandb_logger(
            arguments.wandb,
            run,
            name=run.name,
            job_type="evolve",
            group=group,
            config=yaml.safe_load(text),
            resume=state is not None,
            budget=budget,
            others=trainer_arguments.get("logger"),
        )
        with tracker or nullcontext():
            if tracker is not None:
                tracker.catch_up(every=arguments.wandb.every)
            rows, interrupted = evolve(
                arguments.model,
                data,
                space,
                strategy,
                run=run,
                seed=arguments.seed,
                trainer_arguments=join_loggers(trainer_arguments, tracker, arguments.wandb.every),
                final_rule=arguments.final_rule or strategy.rules[0],
                cache=arguments.cache or root / ".singular_bases",
                final=arguments.final,
                resident=arguments.resident,
                scores=scores,
            )
            if tracker is not None:
                tracker.log_outcome(artifacts=arguments.wandb.artifacts)
            show(rows, f"run: {run}\npage: {run / 'report.html'}")
        return interrupted

    return work


def state_to_continue(run: Path, ckpt_path: str | None, root: Path) -> Path | None:
    """Find the state to continue; a run is neither overwritten by mistake nor continued where there is none.

    Args:
        run: the run's folder.
        ckpt_path: as given.
        root: `run` as given, which of a pair is the folder of all pairs.
    """
    state = run / "evolution" / "state" / "state.json"
    if ckpt_path is None:
        if state.exists() and is_first_process():
            raise ValueError(
                f"run: {run} already holds an evolution; continue it with --ckpt_path last, or choose another --run"
            )
    elif ckpt_path != "last" and (run == root or Path(ckpt_path).resolve() != root.resolve()):
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
    for key in JUDGING:
        if _setting(before, key) != _setting(now, key):
            raise ValueError(f"cannot continue: `{key}` is no longer what {saved} says; choose another --run")


def _setting(config: Mapping[str, Any], key: str) -> Any:
    section, *option = key.split(".")
    return config[section].get(option[0]) if option else config[section]


def _check_same_problems(saved: Path, splits: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Check that a continued run has the problems that it had before."""
    if not saved.exists():
        raise FileNotFoundError(
            f"cannot continue: {saved} is missing, which names the problems; choose another --run"
        )
    for task, parts in load_json(saved).items():
        for name, ids in parts.items():
            if ids != splits[task][name]:
                part = "problems" if name == "sha256" else f"{name} split"
                raise ValueError(
                    f"cannot continue: the {part} of task {task} is not what {saved} says; choose another --run"
                )
