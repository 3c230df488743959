"""Check that everything an evolution needs fits together, and estimate what it will take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import torch
from jsonargparse import Namespace

from cyqd.commands import evolve
from cyqd.commands._common import Parser
from cyqd.evolution import ExpertSpace, GenomeStore, Strategy
from cyqd.evolution.space import Weights
from cyqd.evolution.storage import save_json
from cyqd.report.tables import align
from cyqd.training import EvolvableModule
from cyqd.training.doctor import (
    EVEN,
    HALVES,
    Finding,
    Findings,
    Skipped,
    batch_counts,
    changed,
    check_room,
    fewer,
    free_memory,
    free_space,
    nearest,
    need,
    open_expert,
    open_trainer,
    play_one,
    problem_counts,
    without_weights,
)
from cyqd.training.estimates import Estimate, Plan, bytes_text, seconds_text
from cyqd.training.final import Final
from cyqd.training.run import narrow
from cyqd.training.sharding import busy
from cyqd.training.timing import time_shapes, time_tasks
from cyqd.training.tracking import Wandb, check_wandb

DEVICE_OPTIONS = ("accelerator", "devices", "num_nodes", "precision")
CPU = torch.device("cpu")


def parser() -> Parser:
    """Return the arguments of ``doctor``: those of ``evolve``, so that its configs serve."""
    parser = evolve.parser(required=())
    parser.description = (
        "Check that base, experts, data, environments, devices, memory and disk of an evolution fit together, and "
        "estimate what it will take, before any of it runs. Ends with exit code 1 where a check failed."
    )
    parser.add_argument("--full", action="store_true", help="read all weights, and check that they are finite")
    parser.add_argument(
        "--measure", action="store_true", help="load the base and evaluate a batch of every task, to estimate time"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write checks and estimates to")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``doctor``: the file to write can be written."""
    if config.out:
        if config.out.is_dir():
            raise IsADirectoryError(f"out: {config.out} is a folder; name a file")
        free_space(config.out.parent)

    def work() -> None:
        doctor = Doctor(config, parser)
        doctor.examine()
        width = max(len(finding.check) for finding in doctor.findings)
        for finding in doctor.findings:
            print(f"{finding.status:7}  {finding.check:{width}}  {finding.text}")
        if doctor.estimates:
            lines = [[e.what, str(e), e.assumption] for e in doctor.estimates]
            print(f"\n{align(['estimate', '', 'assumption'], lines)}")
        if config.out:
            save_json(
                config.out,
                {"checks": list(map(asdict, doctor.findings)), "estimates": list(map(asdict, doctor.estimates))},
            )
        if doctor.findings.failed:
            raise SystemExit(1)

    return work


class Doctor:
    """Examines the parts of an evolution one after the other; each is None until it was found to be well.

    Args:
        config: the arguments of ``evolve``.
        parser: theirs.
    """

    def __init__(self, config: Namespace, parser: Parser) -> None:
        self.config = config
        self.parser = parser
        self.findings = Findings()
        self.estimates: list[Estimate] = []
        self.model: EvolvableModule | None = None
        self.data: L.LightningDataModule | None = None
        self.tasks: list[str] | None = None
        self.groups: list[list[str]] = []
        self.base: Weights | None = None
        self.experts: dict[str, Weights] = {}
        self.changed: dict[str, list[str]] = {}
        self.space: ExpertSpace | None = None
        self.strategy: Strategy | None = None
        self.final = Final()
        self.batches: dict[str, list[int]] | None = None
        self.trainer: L.Trainer | None = None
        self.plan: Plan | None = None
        self.fits = False
        self.program = psutil.Process().memory_info().rss

    def examine(self) -> None:
        """Make all checks and estimates."""
        with self.findings.check("config") as finding:
            finding.text = "every key is known"
        self._check_devices()
        self._check_model()
        self._check_data()
        self._check_experts()
        self._check_strategy()
        self._check_problems()
        self._check_environments()
        self._make_plan()
        self._check_tracking()
        self._check_folders()
        self._check_memory()
        self._measure()

    def _check_devices(self) -> None:
        with self.findings.check("devices") as finding:
            self.trainer = open_trainer(self._trainer_arguments())
            number, device = self.trainer.world_size, self.trainer.strategy.root_device
            finding.text = f"{number} process{'es' if number > 1 else ''} on {device.type}"

    def _check_model(self) -> None:
        with self.findings.check("model") as finding:
            with without_weights():
                self.model = self._build("model")
            evolved = self.model.evolved_parameters()
            self.base = self.model.read_weights(self.model.base)
            numbers = sum(parameter.numel() for parameter in evolved.values())
            kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in evolved.values()})
            finding.text = (
                f"{type(self.model).__name__}, {self.model.base}: {numbers / 1e6:,.4g} million weights evolve "
                f"({len(evolved)} tensors, {' and '.join(kinds)})"
            )

    def _check_data(self) -> None:
        with self.findings.check("data") as finding:
            self.data = self._build("data")
            finding.text = type(self.data).__name__
        with self.findings.check("tasks and experts") as finding:
            data, keys = need("data", self.data), ("only", "pairs", "experts")
            if self.config.experts is None:
                raise ValueError("experts: none given; name each task's expert")
            tasks = evolve.evolved_tasks(Namespace(data=data, **{key: self.config[key] for key in keys}))  # type: ignore[no-untyped-call]
            data.tasks = [task for task in data.tasks if task.name in tasks]
            self.groups = [list(pair) for pair in combinations(tasks, 2)] if self.config.pairs else [tasks]
            self.tasks = tasks
            finding.text = ", ".join(tasks)
            if len({self.config.experts[task].resolve() for task in tasks}) < len(tasks):
                finding.warn("two tasks have the same expert")

    def _check_experts(self) -> None:
        if self.config.full and self.base is not None:
            self._check_finite("base", self.base)
        for task, path in (self.config.experts or {}).items():
            with self.findings.check(f"expert {task}") as finding:
                model, base = need("model", self.model), need("model", self.base)
                self.experts[task] = open_expert(model, base, task, path)
                evolved = model.evolved_parameters()
                self.changed[task] = changed(base, self.experts[task], evolved)
                number = len(self.changed[task])
                finding.text = f"{path} fits the base; {number} of {len(evolved)} tensors differ from it"
                if not number:
                    finding.warn("it is the base itself: fine-tune it first, or mend the path")
            if self.config.full and task in self.experts:
                self._check_finite(f"expert {task}", self.experts[task])
        if self.model is not None and self.base is not None and self.tasks:
            names = list(self.model.evolved_parameters())
            # An expert that failed is replaced by the base, whose shapes it should have: estimates are still right.
            experts = [self.experts.get(task, self.base) for task in self.tasks]
            self.changed = {task: self.changed.get(task, names) for task in self.tasks}
            self.space = ExpertSpace(self.base, experts, self.tasks, names=names, rank=self.config.rank)

    def _check_finite(self, label: str, weights: Weights) -> None:
        with self.findings.check(f"{label}: weights") as finding:
            names = need("model", self.model).evolved_parameters()
            space = ExpertSpace(weights, [weights], [label], names=names)
            finding.text = f"all finite, fingerprint {space.fingerprint(weights, label=label)}"

    def _check_strategy(self) -> None:
        with self.findings.check("strategy") as finding:
            strategy: Strategy = self._build("strategy")
            final: Final = self._build("final")
            data = need("data", self.data)
            final.check(strategy, self.config.final_rule, data, data.splits() if hasattr(data, "splits") else {})
            self.final = final
            first = narrow(need("experts", self.space), self.groups[0])
            strategy.setup(first, GenomeStore(Path("genomes"), first, writable=False), self.config.seed)
            self.strategy = strategy
            finding.text = f"{type(strategy).__name__}, {strategy.budget} evaluations"
            if len(self.groups) > 1:
                finding.text += f" for each of {len(self.groups)} pairs"

    def _check_problems(self) -> None:
        with self.findings.check("problems") as finding:
            counts = problem_counts(need("data", self.data))
            finding.text = "optimisation + test: " + ", ".join(
                f"{task} {' + '.join(str(halves[half]) for half in HALVES)}" for task, halves in counts.items()
            )
        with self.findings.check("batches") as finding:
            self.batches = batch_counts(need("data", self.data))
            processes = self.trainer.world_size if self.trainer else 1
            numbers = self.batches["optimisation"]
            share = busy(numbers, processes)
            finding.text = f"{' + '.join(map(str, numbers))} a generation"
            if processes > 1:
                finding.text += f"; the average of {processes} processes has work {share:.0%} of the time"
            if share < EVEN:
                finding.warn(f"{fewer(numbers, processes)} would share them evenly; so may smaller batches")

    def _check_environments(self) -> None:
        if not hasattr(self.data, "check_tasks"):
            with self.findings.check("environments"):
                raise Skipped(f"{type(need('data', self.data)).__name__} has none that replies are played through")
        for task in getattr(self.data, "tasks", ()) if hasattr(self.data, "check_tasks") else ():
            with self.findings.check(f"environment {task.name}") as finding:
                finding.text = play_one(need("data", self.data), task)

    def _make_plan(self) -> None:
        if self.model is None or self.space is None or self.strategy is None:
            return
        tensors = [*self.model.parameters(), *self.model.buffers()]
        self.plan = Plan(
            self.space,
            self.strategy,
            [self.changed[task] for task in self.space.tasks],
            [[self.space.tasks.index(task) for task in group] for group in self.groups],
            weights=sum(tensor.nbytes for tensor in tensors),
            program=self.program,
            processes=self.trainer.world_size if self.trainer else 1,
            local=self.trainer.num_devices if self.trainer else 1,
            resident=self.config.resident,
            further=len(self.final.rules(self.strategy)),
            judged=self.final.judged(self.strategy),
            on_cpu=self._device() == CPU,
        )
        self.estimates += self.plan.sizes()

    def _check_tracking(self) -> None:
        with self.findings.check("wandb") as finding:
            options: Wandb = self._build("wandb")
            finding.text = options.chosen_mode()
            check_wandb(options)

    def _check_folders(self) -> None:
        run, cache, room = self.config.run, self._cache(), None
        with self.findings.check("run") as finding:
            if run is None:
                raise ValueError("run: none given; name the folder to write to")
            room = free_space(run)
            pairs = ["+".join(group) for group in self.groups] if self.config.pairs else [""]
            states = [evolve.state_to_continue(run / pair, self.config.ckpt_path, run) for pair in pairs]
            finding.text = f"{run} can be written to" + ("; continues what is there" if any(states) else "")
        with self.findings.check("disk") as finding:
            plan, mend = need("estimates", self.plan), "free some, or choose another disk"
            (free, disk), (other_free, other_disk) = need("run", room), free_space(need("run", cache))
            if disk == other_disk:
                check_room(finding, "on disk", plan.run_bytes + plan.cache_bytes, free, mend=mend)
            else:
                check_room(finding, "for the run", plan.run_bytes, free, mend=mend)
                with self.findings.check("disk: singular bases") as other:
                    check_room(other, "in the cache", plan.cache_bytes, other_free, mend=f"{mend} with --cache")

    def _check_memory(self) -> None:
        with self.findings.check("memory") as finding:
            needed, mend = need("estimates", self.plan).host_bytes, "use fewer processes, or a machine with more"
            check_room(finding, "on this machine", needed, free_memory(CPU), mend=mend)
        if (device := self._device()) != CPU:
            with self.findings.check(f"memory: {device.type}") as finding:
                plan, mend = need("estimates", self.plan), "set a lower --rank, or use a device with more"
                mend = f"leave --resident out, {mend}" if plan.resident else mend
                check_room(finding, "on the device", plan.device_bytes, free_memory(device), mend=mend)

        memory = [finding for finding in self.findings if finding.check.startswith("memory")]
        self.fits = all(finding.status in ("ok", "warning") for finding in memory)

    def _measure(self) -> None:
        seconds = None
        with self.findings.check("evaluation") as finding:
            seconds = self._time_evaluation(finding)
        with self.findings.check("shapes") as finding:
            plan, cache = need("estimates", self.plan), need("run", self._cache())
            parameters = need("model", self.model).evolved_parameters().values()
            with tempfile.TemporaryDirectory(dir=nearest(cache), prefix=".doctor-") as folder:
                shapes = time_shapes(
                    narrow(plan.space, self.groups[0]),
                    spectral=plan.decomposes,
                    dtype=next(iter(parameters)).dtype,
                    device=self._device(),
                    folder=Path(folder),
                )
            finding.text = "each tried with random weights"
            self.estimates += plan.times(shapes, seconds, self.batches)

    def _time_evaluation(self, finding: Finding) -> dict[str, float]:
        if not self.config.measure:
            raise Skipped("without it the whole run's time is not known: pass --measure")
        if not self.fits:
            raise Skipped("the model is not known to fit into memory, see above")
        data, space, device = need("data", self.data), need("experts", self.space), self._device()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = time_tasks(self._build("model"), data, space, self._trainer_arguments())
        parts = ", ".join(f"{task} {seconds_text(amount)}" for task, amount in seconds.items())
        finding.text = f"a batch takes: {parts}"
        if device.type == "cuda":
            finding.text += f"; {bytes_text(torch.cuda.max_memory_allocated(device))} of device memory at most"
        return seconds

    def _build(self, part: str) -> Any:
        """Instantiate one class of the config."""
        if self.config.get(part) is None:
            raise ValueError(f"{part}: none given")
        return self.parser.instantiate(Namespace(**{part: self.config[part]}))[part]  # type: ignore[no-untyped-call]

    def _trainer_arguments(self) -> dict[str, Any]:
        return {key: self.config.trainer[key] for key in DEVICE_OPTIONS}

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else CPU

    def _cache(self) -> Path | None:
        """Return where singular bases will be kept."""
        run: Path | None = self.config.run
        return self.config.cache or (run and run.parent / ".singular_bases")
