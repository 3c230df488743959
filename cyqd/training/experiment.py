"""What an experiment file says: methods × seeds, each cell one command."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cyqd.evolution.storage import load_json, save_json

OWN = ("config", "seed", "run", "ckpt_path", "out")
"""Options that the experiment gives every cell itself."""

OF_THE_MACHINE = ("threads", "cache", "resident", "trainer.devices", "trainer.num_nodes", "wandb")
"""Options that change how a cell is run and not what comes out of it; these may differ from a start to the next."""

PREPARING = "preparing"
"""What the logs' names of preparing commands begin with; no method may be called so."""


@dataclass(frozen=True)
class Job(ABC):
    """One command of an experiment.

    Attributes:
        name: what messages call it.
        slug: the name of its log.
        seed: whose it is; None for all seeds.
        arguments: what follows ``python -m``.
    """

    name: str
    slug: str
    seed: int | None
    arguments: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command as a shell runs it."""
        return shlex.join(["python", "-m", *self.arguments])

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether there is nothing left to do."""

    @abstractmethod
    def begin(self) -> None:
        """Note that the command is about to run."""


@dataclass(frozen=True)
class Preparation(Job):
    """A command that must have been run before the cells.

    Attributes:
        makes: the last file that it writes.
    """

    makes: Path

    @property
    def done(self) -> bool:
        """Whether the file is there."""
        return self.makes.exists()

    def begin(self) -> None:
        """Note nothing: the file will tell."""


@dataclass(frozen=True)
class Cell(Job):
    """One method with one seed.

    Attributes:
        seed: its seed.
        method: its name.
        folder: where its results lie.
        said: what the experiment says of it: the ``config`` it starts from and the ``options`` over it.
        models: names of the models that it only tests; empty if it searches.
    """

    seed: int
    method: str
    folder: Path
    said: Mapping[str, Any] = field(repr=False)
    models: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether its results are there, and of a search that has come to its end."""
        results, state = self.folder / "results.json", self.folder / "evolution" / "state" / "state.json"
        if not results.exists():
            return False
        if self.models:
            return True
        found = load_json(results)
        evaluated = load_json(state)["evaluated"] if state.exists() else found["evaluations"]
        return bool(found["evaluations"] == found["budget"] == evaluated)

    def begin(self) -> None:
        """Note in the cell's folder what the experiment says, before anything is written there."""
        save_json(self.folder / "cell.json", self.said)

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Return what the experiment said when the cell was begun, and says now, by option, where these differ."""
        if not (self.folder / "cell.json").exists():
            return {}
        was, now = (dict(_leaves(said)) for said in (load_json(self.folder / "cell.json"), self.said))
        keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        free = tuple(f"{section}.{key}." for section in ("config", "options") for key in OWN + OF_THE_MACHINE)
        return {key: (was.get(key), now.get(key)) for key in keys if not f"{key}.".startswith(free)}


class Preparing(BaseModel):
    """A command that is run once before the cells, unless what it makes is there.

    Attributes:
        makes: the last file that it writes.
        command: what follows ``python -m``.
    """

    model_config = ConfigDict(extra="forbid")

    makes: str = Field(min_length=1)
    command: str = Field(min_length=1)


class Experiment(BaseModel):
    """Methods × seeds. In every string, ``{seed}`` stands for the seed.

    Attributes:
        folder: where tables are written, and the cells: ``folder``/METHOD/SEED.
        config: the file of ``evolve`` that every cell starts from.
        methods: by name, the options of ``evolve`` that make the method; or ``models``, folders by name, which are
            only tested.
        budget: evaluations that every search may use. ``strategy.init_args.generations`` becomes what ``final``
            leaves of it, by which models are judged once more.
        seeds: of the cells.
        reference: the method that the others are compared with; the first by default.
        options: of every cell, under those of its method.
        prepare: commands that are run before the cells, in this order.
    """

    model_config = ConfigDict(extra="forbid")

    folder: Path
    config: str
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    budget: int = Field(gt=0)
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    reference: str = ""
    options: dict[str, Any] = {}
    prepare: list[Preparing] = []

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        self.reference = self.reference or next(iter(self.methods))
        problems = []
        if len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds: expected every seed once, got {self.seeds}")
        if self.reference not in self.methods:
            problems.append(f"reference: expected one of {', '.join(self.methods)}, got {self.reference!r}")
        elif "models" in self.methods[self.reference]:
            problems.append(f"reference: expected a search, got {self.reference!r}, which only tests models")
        folders: dict[str, str] = {}
        for name, options in {"": self.options, **self.methods}.items():
            key = f"methods.{name}" if name else "options"
            problems += [
                f"{key}.{own}: the experiment sets this itself; leave it out" for own in OWN if own in options
            ]
            models = options.get("models", {"": ""})
            if not isinstance(models, dict) or not models or not all(isinstance(m, str) for m in models.values()):
                problems.append(f"{key}.models: expected folders by name, got {models!r}")
            if not name:
                continue
            same = folders.setdefault(slug(name).lower(), name)
            if same != name or slug(name).lower() in ("", "logs", "cache", PREPARING):
                other = f"the folder of {same!r}" if same != name else "no folder of its own"
                problems.append(f"{key}: this name gives {other}; choose another one")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def preparations(self) -> list[list[Preparation]]:
        """Return the preparing commands, stage by stage; those of a stage do not need each other."""
        stages: list[list[Preparation]] = []
        for number, preparing in enumerate(self.prepare):
            stage: dict[Path, Preparation] = {}
            common = "{seed}" not in preparing.makes
            for seed in self.seeds:
                makes = Path(_seeded(preparing.makes, seed))
                log = f"{PREPARING}-{number}" if common else f"{PREPARING}-{number}-{seed}"
                arguments = tuple(shlex.split(_seeded(preparing.command, seed)))
                stage.setdefault(
                    makes, Preparation(f"preparing {makes}", log, None if common else seed, arguments, makes)
                )
            stages.append(list(stage.values()))
        return stages

    def cells(self) -> list[Cell]:
        """Return the cells: of each seed all methods, so that what is done first can be compared."""
        return [self._cell(method, seed) for seed in self.seeds for method in self.methods]

    def _cell(self, method: str, seed: int) -> Cell:
        folder = self.folder / slug(method) / str(seed)
        config = _seeded(self.config, seed)
        own = self.methods[method]
        replaced = tuple(f"{key}." for key in own)  # parts of a section that the method gives anew
        options = {key: value for key, value in self.options.items() if not key.startswith(replaced)}
        options = _seeded({"cache": str(self.folder / "cache"), **options, **own}, seed)
        if not any(key.partition(".")[0] == "wandb" for key in options):
            options["wandb.mode"] = "disabled"
        models = options.pop("models", {})
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        if not models and _takes_generations(options, content):
            options["strategy.init_args.generations"] = max(self.budget - _judged(options, content), 0)
        name, log = f"{method}, seed {seed}", f"{slug(method)}-{seed}"
        given = [word for key in sorted(options, key=_depth) for word in (f"--{key}", _word(options[key]))]
        ends = ["--models", *models.values(), "--out", str(folder)] if models else ["--ckpt_path", "last"]
        command = ["test" if models else "evolve", "--config", config, "--seed", str(seed), "--run", str(folder)]
        said = {"config": content, "options": {**options, **({"models": models} if models else {})}}
        return Cell(name, log, seed, ("cyqd", *command, *given, *ends), method, folder, said, tuple(models))


def read_experiment(path: Path, *, reference: str | None = None) -> Experiment:
    """Read an experiment file.

    Args:
        path: the file.
        reference: in place of the file's own.

    Raises:
        FileNotFoundError: if it is missing, or the config that it names.
        ValueError: naming everything that is wrong in it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    try:
        experiment = Experiment.model_validate(content)
        return experiment if reference is None else Experiment.model_validate({**content, "reference": reference})
    except ValidationError as error:
        problems = [_problem(found) for found in error.errors()]
        raise ValueError(f"{path}:\n" + "\n".join(problems)) from error


def check_unchanged(cells: list[Cell]) -> None:
    """Check that what was begun is what the experiment still says.

    Raises:
        ValueError: naming what has changed.
    """
    changed: dict[tuple[str, str], str] = {}
    for cell in cells:
        for key, (was, now) in cell.changes().items():
            text = f"{cell.method}: {key} was {was!r} in {cell.folder}, now it is {now!r}"
            changed.setdefault((cell.method, key), text)
    if changed:
        lines = "\n".join(changed.values())
        raise ValueError(f"the experiment is no longer what was begun:\n{lines}\nchoose another `folder`")


def slug(name: str) -> str:
    """Return a name as a folder's."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")


def _problem(found: Mapping[str, Any]) -> str:
    key = ".".join(map(str, found["loc"]))
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    if found["type"] == "extra_forbidden":
        return f"{key}: there is no such option; there are {', '.join(Experiment.model_fields)}"
    text = found["msg"][0].lower() + found["msg"][1:]
    return f"{key}: {text}" if found["type"] == "missing" else f"{key}: {text}, got {found['input']!r}"


def _seeded(value: Any, seed: int) -> Any:
    """Return a value with the seed in place of ``{seed}``, in every string."""
    if isinstance(value, str):
        return value.replace("{seed}", str(seed))
    if isinstance(value, dict):
        return {key: _seeded(item, seed) for key, item in value.items()}
    return [_seeded(item, seed) for item in value] if isinstance(value, list) else value


def _takes_generations(options: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Tell whether the strategy has a budget to be set: the plain average, for one, has none."""
    default = config.get("strategy", "cyqd.evolution.CycleQD")
    strategy = options.get("strategy.class_path", options.get("strategy", default))
    if isinstance(strategy, dict):
        strategy = strategy.get("class_path") or (default if isinstance(default, str) else default["class_path"])
    module, _, name = strategy.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "cyqd.evolution"), name)
    except (ImportError, AttributeError):
        return True  # reading the command's arguments will say what is wrong
    return "generations" in inspect.signature(found).parameters


def _judged(options: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return how many models are scored once more when the search has ended; see ``final`` of ``evolve``."""
    final = {**(config.get("final") or {}), **(options.get("final") or {})}
    final |= {key.removeprefix("final."): value for key, value in options.items() if key.startswith("final.")}
    return int(final.get("finalists", 0)) + len(final.get("scales", []))


def _depth(key: str) -> int:
    """Sort sections before their parts, which would be lost under them."""
    return key.count(".")


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in nested dictionaries and lists, by dotted key."""
    if isinstance(value, dict | list) and value:
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
