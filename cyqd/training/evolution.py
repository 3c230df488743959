"""The callback that breeds and judges: one generation per epoch of the hosting Trainer run."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from tqdm import tqdm

from cyqd.evolution import Candidate, ExpertSpace, GenomeStore, Strategy, materialise
from cyqd.evolution.storage import atomic_path, load_json, save_json
from cyqd.report.metrics import generation_metrics
from cyqd.training.bases import prepare_space
from cyqd.training.host import EvaluationData, EvolutionHost
from cyqd.training.module import EvolvableModule
from cyqd.training.scores import ScoreCache
from cyqd.training.sharding import gather


class Evolution(L.Callback):
    """Hosts a strategy: asks for a model, writes it into the live module, tells the scores, saves.

    After every evaluation the folder holds the genomes, then a line of ``history.jsonl``, then ``state.json``,
    whose replacement is the one moment at which the generation counts. A run killed anywhere continues as if
    nothing had happened.

    Args:
        strategy: the search.
        space: the base and the experts.
        folder: where state and genomes lie; a state in it is continued.
        history: JSON Lines file, one line per evaluation.
        seed: seed of the search.
        cache: where singular bases are kept, for all runs that share experts.
        resident: hold base, experts and singular bases on the device.
        title: what the progress bar says.
        patient: let the first Ctrl-C end the run after the current evaluation.
        by_problem: keep every problem's score in the history.
        scores: where scores of models that were evaluated before are found; they count as evaluations all the same,
            and their lines of the history say ``cached``. By default every model is evaluated.
    """

    def __init__(
        self,
        strategy: Strategy,
        space: ExpertSpace,
        *,
        folder: Path,
        history: Path,
        seed: int,
        cache: Path,
        resident: bool = False,
        title: str = "evolve",
        patient: bool = True,
        by_problem: bool = False,
        scores: ScoreCache | None = None,
    ) -> None:
        self.strategy = strategy
        self.space = space
        self.state_path = folder / "state.json"
        self.store = GenomeStore(folder / "genomes", space)
        self.history = history
        self.seed = seed
        self.cache = cache
        self.resident = resident
        self.title = title
        self.patient = patient
        self.by_problem = by_problem
        self.scores = scores
        self.interrupted = False
        self.candidate: Candidate
        self.line: dict[str, Any] = {}
        """The history's newest line, on every process."""
        self.seconds: dict[str, float] = {}
        self.key = ""
        self.known: Mapping[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare singular bases, state and progress bar, once for the whole evolution."""
        self.tasks = [task.name for task in trainer.datamodule.tasks]  # type: ignore[attr-defined]
        self.space.identity = trainer.strategy.broadcast(self.space.identity)
        prepare_space(self.space, self.strategy, self.cache, trainer)
        self.space.to(trainer.strategy.root_device, resident=self.resident)
        self.store.writable = trainer.is_global_zero
        self.strategy.setup(self.space, self.store, self.seed, self.tasks)
        if self.state_path.exists():
            self.strategy.load_state_dict(load_json(self.state_path))
        self._forget_unsaved(trainer)
        trainer.strategy.barrier("evolution state")
        trainer.fit_loop.max_epochs = max(self.strategy.budget - self.strategy.evaluated, 0)
        self.batches = trainer.limit_val_batches
        self.bar = tqdm(
            total=self.strategy.budget,
            initial=self.strategy.evaluated,
            desc=self.title,
            unit="model",
            disable=not trainer.is_global_zero,
        )
        self._catch_interrupt()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Breed a child and write it into the live module, unless its scores are known."""
        assert isinstance(pl_module, EvolutionHost)
        self.seconds = {}
        pl_module.domain.reset_scores()
        with self._clock("breed"):
            self.candidate = self.strategy.ask()
        self.known = self._look_up(trainer)
        trainer.limit_val_batches = 0 if self.known else self.batches  # 0 skips the whole validation
        if not self.known:
            with self._clock("materialise"):
                materialise(self.candidate.genome, pl_module.domain.evolved_parameters())
        self._evaluation_start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the child's scores, save, report."""
        assert isinstance(pl_module, EvolutionHost)
        found = self.known or self._measure(pl_module.domain)
        if trainer.is_global_zero and self.scores and not self.known:
            self.scores.keep(self.key, found)
        scores = [found["scores"][task] for task in self.tasks]
        with self._clock("tell"):
            report = self.strategy.tell(self.candidate, tuple(scores))
        details = {key: found[key] for key in ("measures", "faults", "retries")}
        details |= {"outcomes": found["outcomes"] if self.by_problem else {}, "cached": self.known is not None}
        self.line = {
            "evaluation": self.candidate.id,
            **self.candidate.origin,
            **{key: found[key] for key in ("scores", "intervals", "n")},
            **report,
            **{key: value for key, value in details.items() if value},
            "seconds": {**self.seconds, **found["seconds"]},
        }
        if trainer.is_global_zero:
            self._save()
        trainer.strategy.barrier("evolution saved")
        if trainer.loggers:
            metrics = generation_metrics(self.line, self.strategy.archives, self.tasks)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=self.line.get("generation", self.candidate.id))
        child = sum(scores) / len(scores)
        best = " ".join(f"{t}={s:.3f}" for t, s in zip(self.tasks, self.strategy.best(), strict=False))
        self.bar.set_postfix_str(f"mean={child:.3f}, best {best}", refresh=False)
        self.bar.update()
        if trainer.strategy.reduce_boolean_decision(self.interrupted, all=False):
            self.interrupted = trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar, give Ctrl-C back."""
        self.bar.close()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous_handler)

    def _look_up(self, trainer: L.Trainer) -> Mapping[str, Any] | None:
        """Find the candidate's scores; the first process looks, and tells all."""
        if self.scores is None:
            return None
        known = None
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            assert isinstance(data, EvaluationData)
            self.key = self.scores.key(self.candidate.genome, data.split, trainer.strategy.root_device)
            known = self.scores.find(self.key, outcomes=self.by_problem)
        return trainer.strategy.broadcast(known)

    def _measure(self, domain: EvolvableModule) -> dict[str, Any]:
        """Collect what was measured, over all processes; ``seconds`` are those that a cached score saves."""
        scores = {task: metric.score() for task, metric in zip(self.tasks, domain.metrics, strict=True)}  # type: ignore[operator]
        seconds = {"materialise": self.seconds.pop("materialise")}
        seconds["evaluate"] = time.perf_counter() - self._evaluation_start
        return {
            "scores": {task: score.mean for task, score in scores.items()},
            "intervals": {task: [score.low, score.high] for task, score in scores.items()},
            "n": {task: score.n for task, score in scores.items()},
            "measures": domain.measures(),
            "faults": gather(domain.faults),
            "retries": gather(domain.retries),
            "outcomes": gather(domain.outcomes) if self.by_problem else {},
            "seconds": {**seconds, **domain.timings},
        }

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start

    def _save(self) -> None:
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.line) + "\n")
        save_json(self.state_path, self.strategy.state_dict())
        self.store.prune(self.strategy.kept())

    def _forget_unsaved(self, trainer: L.Trainer) -> None:
        """Drop what a killed process wrote after its last complete generation."""
        if not trainer.is_global_zero:
            return
        self.history.parent.mkdir(parents=True, exist_ok=True)
        lines = self.history.read_text(encoding="utf-8").splitlines() if self.history.exists() else []
        with atomic_path(self.history) as temporary:
            temporary.write_text(
                "".join(line + "\n" for line in lines[: self.strategy.evaluated]), encoding="utf-8"
            )
        self.store.prune(self.strategy.kept())
        for leftover in self.state_path.parent.glob(".*.tmp"):
            leftover.unlink()

    def _catch_interrupt(self) -> None:
        """Let the first Ctrl-C end the evolution after the current generation, the second one at once."""

        def handler(signum: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self.interrupted = True
            if not self.bar.disable:
                self.bar.write("interrupted: ending after this evaluation; press Ctrl-C again to stop at once")

        self._previous_handler = signal.getsignal(signal.SIGINT)
        if self.patient and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
