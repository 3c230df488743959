"""Write a model of a run in its ecosystem's format."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from cyqd.commands import evolve
from cyqd.commands._common import Parser
from cyqd.evolution import ExpertSpace, GenomeStore, Strategy
from cyqd.evolution.storage import load_json
from cyqd.report.hub import check_push, push
from cyqd.report.record import STATE, RunRecord, read_run
from cyqd.training import EvolvableModule
from cyqd.training.bases import attach_cache, prepare_space
from cyqd.training.export import (
    chosen_on_fresh_problems,
    final_model,
    find_cell,
    find_elite,
    individual,
    write_model,
)
from cyqd.training.final import RESCORED, SCALED, further_results
from cyqd.training.run import SetupError, open_space

USED = ("model", "experts", "strategy", "seed", "rank", "cache", "final_rule")
"""Arguments of `evolve` that say what the run's models are; neither its data nor its Trainer are needed."""


def parser() -> Parser:
    """Return the arguments of ``export``."""
    parser = Parser(
        description="Write a model of a run in its ecosystem's format, with a model card and its merge recipe. The "
        "run may still be going on. Exactly one of --elite, --cell and --aggregate says which."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--elite",
        type=str,
        metavar="TASK:best",
        help="TASK:best, the archive's model of highest score; TASK:gamma, the one that selection likes most; or "
        "the number of an evaluation whose model is held",
    )
    parser.add_argument(
        "--cell",
        type=str,
        metavar="TASK:3,7",
        help="the model in a cell of an archive: its bins on the other tasks, from 0",
    )
    parser.add_argument("--aggregate", action="store_true", help="what the run came to, or would by now")
    parser.add_argument(
        "--rule", type=str, help="which result --aggregate takes; the run's `final_rule` by default"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to; new or empty")
    parser.add_argument(
        "--base_model",
        type=str,
        metavar="OWNER/NAME",
        help="the base's name on the hub, for the card, if its path does not tell",
    )
    parser.add_argument(
        "--push", type=str, metavar="OWNER/NAME", help="then push it to the Hugging Face hub, under this name"
    )
    parser.add_argument("--private", action="store_true", help="as a private repository, if --push creates it")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``export``: everything that can be wrong is found here, before any work."""
    out: Path = config.out
    chosen = [key for key in ("elite", "cell", "aggregate") if config[key]]
    if len(chosen) != 1:
        raise ValueError(
            f"expected exactly one of --elite, --cell and --aggregate, got {' '.join(chosen) or 'none'}"
        )
    if config.rule and not config.aggregate:
        raise ValueError("rule: only --aggregate takes a rule")
    if config.private and not config.push:
        raise ValueError("private: only --push creates a repository")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {out} is not empty; choose another folder")
    record = read_run(config.run)
    if not config.aggregate:
        _find(config, record)
    if config.push:
        check_push(config.push)
    evolved = evolve.parser(required=("model", "experts"))
    arguments = evolved.parse_object({key: record.config[key] for key in USED if key in record.config})
    strategy: Strategy = evolved.instantiate(Namespace(strategy=arguments.strategy)).strategy  # type: ignore[no-untyped-call]
    rule: str = config.rule or arguments.final_rule or next(iter(strategy.rules), "")
    rules = (*strategy.rules, *chosen_on_fresh_problems(record))
    if config.aggregate and rule not in rules:
        raise ValueError(f"rule: expected one of {', '.join(rules)}, got {rule}{_unjudged(rule)}")
    model, space = _open(record, arguments, evolved)
    genomes = (record.folder / STATE).parent / "genomes"
    cache = _cache(record, arguments.cache)
    attach_cache(space, strategy, cache)
    strategy.setup(space, GenomeStore(genomes, space, writable=False), arguments.seed, record.tasks)
    try:
        strategy.load_state_dict(load_json(record.folder / STATE))
        record = read_run(record.folder)  # as it is by now, and not older than the state
        if config.aggregate:
            results = dict(strategy.result())
            results |= further_results(strategy, results, chosen_on_fresh_problems(record))
            picked = final_model(strategy, rule, results, record)
        else:
            picked = individual(strategy, _find(config, record), config.cell or _label(config.elite))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the run went on meanwhile and dropped this model; try again ({error})") from error

    def work() -> None:
        prepare_space(space, strategy, cache)
        write_model(model, picked, record, out, made=_commands(config, record, rule), base=config.base_model or "")
        print(f"{picked.label}: {out}")
        if config.push:
            try:
                print(f"pushed: {push(out, config.push, private=config.private)}")
            except OSError as error:
                raise SetupError(str(error)) from error

    return work


def _find(config: Namespace, run: RunRecord) -> int:
    return find_elite(run, config.elite) if config.elite else find_cell(run, config.cell)


def _unjudged(rule: str) -> str:
    return "; it is judged when the run ends, if --final asked for it" if rule in (RESCORED, SCALED) else ""


def _label(elite: str) -> str:
    return elite if ":" in elite else f"evaluation {elite}"


def _open(run: RunRecord, arguments: Namespace, parser: Parser) -> tuple[EvolvableModule, ExpertSpace]:
    """Load a run's base and experts, and check that they are still the same."""
    file = run.folder / "config.yaml"
    experts = {task: arguments.experts[task] for task in run.tasks}
    try:
        model: EvolvableModule = parser.instantiate(Namespace(model=arguments.model)).model  # type: ignore[no-untyped-call]
        space = open_space(model, experts, rank=arguments.rank)
    except (FileNotFoundError, ValueError) as error:  # the parser makes a ValueError of what a class raises
        missing: BaseException | None = error
        while missing is not None and not isinstance(missing, FileNotFoundError):
            missing = missing.__cause__
        if missing is None:
            raise
        raise FileNotFoundError(
            f"{missing}. {file} names it (`model`, `experts`), and its paths hold in the folder where `evolve` ran"
            f"{_launched(run)}: run this command there, or mend them"
        ) from error
    models = {"model": model.base, **{f"experts.{task}": path for task, path in experts.items()}}
    known, found = run.settings["models"].split(), space.identity.split()
    for (key, path), was, now in zip(models.items(), known, found, strict=True):
        if was != now:
            raise ValueError(
                f"{key}: the weights in {path} are no longer those that {run.folder} merged (fingerprint {now}, it "
                f"was {was}); put them back, or mend the path in {file}"
            )
    return model, space


def _launched(run: RunRecord) -> str:
    """Return in words where a run was started, as far as its own path tells."""
    given, folder = Path(run.config["run"]), run.folder.resolve()
    if given.is_absolute() or folder.parts[-len(given.parts) :] != given.parts:
        return ""
    return f", {folder.parents[len(given.parts) - 1]}"


def _cache(run: RunRecord, given: Path | None) -> Path:
    """Return where the run's singular bases lie: beside it, or, of a pair of a run of pairs, beside all of them."""
    folder = run.folder.resolve()
    places = [given] if given else [folder.parents[k] / ".singular_bases" for k in (0, 1)]
    return next((place for place in places if place.exists()), places[0])


def _commands(config: Namespace, run: RunRecord, rule: str) -> str:
    options: list[Any] = ["--aggregate", "--rule", rule] if config.aggregate else []
    options += ["--elite", config.elite] if config.elite else []
    options += ["--cell", config.cell] if config.cell else []
    made = shlex.join(["python", "-m", "cyqd", "export", run.name, *options, "--out", "DIR"])
    return f"python -m cyqd evolve --config {shlex.quote(f'{run.name}/config.yaml')}\n{made}"
