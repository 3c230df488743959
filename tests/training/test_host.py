"""One Trainer run hosts an evolution: set up once, nothing trained, nothing wrapped."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from cyqd.evolution import Candidate, CycleQD, Roster, TaskVectorAverage
from cyqd.report.record import troubles
from cyqd.training.evolution import Evolution
from cyqd.training.run import clear_errors, host_trainer, open_space, read_history
from cyqd.training.strategies import EvaluationStrategy
from tests.toy import ToyData, ToyModule

Models = tuple[Path, dict[str, Path]]


class Witness(L.Callback):
    """Counts what happens and keeps what it saw."""

    def __init__(self) -> None:
        self.setups = 0
        self.generations = 0
        self.wrapped: list[str] = []
        self.gradients = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.setups += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.generations += 1
        self.wrapped.append(type(trainer.strategy.model).__name__)
        self.gradients |= any(p.grad is not None or p.requires_grad for p in pl_module.parameters())


def host(models: Models, folder: Path, strategy: Any, **arguments: Any) -> tuple[Witness, Evolution, ToyModule]:
    base, experts = models
    module, witness = ToyModule(base), Witness()
    callback = Evolution(
        strategy,
        open_space(module, experts),
        folder=folder / "state",
        history=folder / "history.jsonl",
        seed=0,
        cache=folder / "cache",
    )
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "callbacks": [witness], **arguments}
    trainer, wrapped, data = host_trainer(module, ToyData([9, 5, 6]), "optimisation", [callback], options)
    with clear_errors(trainer, data):
        trainer.fit(wrapped, datamodule=data)
    return witness, callback, module


def test_all_generations_share_one_set_up_and_nothing_is_trained(toy_models: Models, tmp_path: Path) -> None:
    witness, callback, _ = host(toy_models, tmp_path, CycleQD(generations=4))
    assert (witness.setups, witness.generations) == (1, 7)
    assert set(witness.wrapped) == {"EvolutionHost"}
    assert not witness.gradients
    assert callback.strategy.done


def test_several_processes_get_no_ddp_wrapper() -> None:
    strategy = EvaluationStrategy(process_group_backend="gloo")
    strategy._model = model = torch.nn.Linear(2, 2)
    strategy.configure_ddp()
    assert strategy.model is model


def test_a_roster_scores_the_very_weights_of_an_expert(toy_models: Models, tmp_path: Path) -> None:
    base, experts = toy_models
    space = open_space(ToyModule(base), experts)
    _, callback, module = host(toy_models, tmp_path, Roster({"expert": space.expert(1)}))
    stored = module.read_weights(experts["task1"])
    assert all(torch.equal(p, stored[name]) for name, p in module.evolved_parameters().items())
    assert callback.strategy.best()[1] > 0.9


def test_the_average_is_a_strategy_of_one_evaluation(toy_models: Models, tmp_path: Path) -> None:
    witness, callback, module = host(toy_models, tmp_path, TaskVectorAverage())
    assert witness.generations == 1
    _, experts = toy_models
    weights = [module.read_weights(path) for path in experts.values()]
    for name, parameter in module.evolved_parameters().items():
        mean = sum(w[name].double() for w in weights) / len(weights)
        torch.testing.assert_close(parameter.double(), mean, rtol=0, atol=1e-6)
    assert list(callback.strategy.result()) == ["task-vector average"]


def test_a_run_that_breaks_gives_ctrl_c_back(toy_models: Models, tmp_path: Path) -> None:
    class Broken(TaskVectorAverage):
        def ask(self) -> Candidate:
            raise ZeroDivisionError

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        host(toy_models, tmp_path, Broken())
    assert signal.getsignal(signal.SIGINT) is before


def test_loggers_get_scores_and_times_by_generation(toy_models: Models, tmp_path: Path) -> None:
    logger = L.pytorch.loggers.CSVLogger(tmp_path / "log", flush_logs_every_n_steps=1)
    host(toy_models, tmp_path, CycleQD(generations=2), logger=logger)
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    assert {"child/task0", "child/task1", "child/task2", "time/breed", "time/evaluate", "step"} <= set(columns)
    assert len(lines) == 1 + 5


@pytest.mark.gpu
def test_an_evolution_runs_on_a_gpu(toy_models: Models, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    witness, callback, _ = host(toy_models, tmp_path, CycleQD(generations=4), accelerator="gpu")
    assert witness.generations == 7
    assert callback.space.device.type == "cuda"


def test_measures_stand_beside_the_scores(reference_run: Path) -> None:
    records = read_history(reference_run / "history.jsonl")
    for record in records:
        assert record["measures"].keys() == {"task0"}
        odd, even, difference = (record["measures"]["task0"][name] for name in ("odd", "even", "difference"))
        assert (51 * even + 50 * odd) / 101 == pytest.approx(record["scores"]["task0"], abs=1e-9)
        assert difference == abs(odd - even)
    rows = json.loads((reference_run / "results.json").read_text())["rows"]
    assert all(row["measures"].keys() == {"task0"} for row in rows)
    tested = read_history(next((reference_run / "evolution").glob("test-*")) / "history.jsonl")
    assert all(len(record["outcomes"]) == 101 + 37 + 3 for record in tested)


def test_troubles_are_counted_by_problem() -> None:
    records = [
        {"faults": {"a/1": "cut off"}},
        {"scores": {}},
        {"faults": {"a/1": "gone", "b/2": "full"}, "retries": {"a/3": "killed"}},
    ]
    assert troubles(records) == {
        "faults": {"a/1": {"times": 2, "last": "gone"}, "b/2": {"times": 1, "last": "full"}},
        "retries": {"a/3": {"times": 1, "last": "killed"}},
    }
