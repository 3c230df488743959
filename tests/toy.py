"""A toy domain: linear models that are scored by how near their output is to each task's target.

It proves the seam: the engine evolves it through the same public interface as LLMs and SAM.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cyqd.training import EvolvableModule, ShardedBatchSampler

WIDTH = 6
FILE = "weights.safetensors"


class ToyModule(EvolvableModule):
    """Two linear layers and a norm."""

    def __init__(self, base: Path) -> None:
        super().__init__()
        self.base = Path(base)
        self.net = nn.Sequential(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Linear(8, WIDTH))
        if not (self.base / FILE).exists():
            raise FileNotFoundError(f"model.init_args.base: there is no {FILE} in {self.base}")
        self.net.load_state_dict(dict(self.read_weights(self.base)))

    def evolved_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.net.named_parameters())

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        numbers, inputs, targets = batch
        error = (self.net(inputs) - targets).square().mean(dim=1)
        for number, score in zip(numbers.tolist(), torch.exp(-error).tolist(), strict=True):
            task = self._tasks[dataloader_idx].name
            measures = {"odd" if number % 2 else "even": score} if task == "task0" else {}
            self.record(dataloader_idx, f"{task}/{number}", score, measures)

    def read_weights(self, path: Path) -> Mapping[str, Tensor]:
        with safe_open(path / FILE, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def check_compatible(self, base: Path, expert: Path) -> None:
        if not (expert / FILE).exists():
            raise FileNotFoundError(f"{expert} holds no {FILE}")

    def save_model(self, path: Path, card: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().clone() for k, v in self.net.state_dict().items()}, path / FILE)
        (path / "README.md").write_text(card)


class ToyData(L.LightningDataModule):
    """Per task a seeded set of inputs, and the outputs of that task's own target network.

    Args:
        sizes: number of problems of each task.
        batch_size: problems per batch.
    """

    def __init__(self, sizes: list[int], *, batch_size: int = 4) -> None:
        super().__init__()
        self.tasks = [SimpleNamespace(name=f"task{k}", number=k, size=size) for k, size in enumerate(sizes)]
        self.tasks[0].measures = ("odd", "even")
        self.tasks[0].derived = lambda means: {**means, "difference": abs(means["odd"] - means["even"])}
        self.batch_size = batch_size

    def _loaders(self, seed: int) -> list[DataLoader]:
        loaders, dealt = [], 0
        for task in self.tasks:
            inputs = torch.randn(task.size, WIDTH, generator=torch.Generator().manual_seed(seed + task.number))
            target = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(100 + task.number)) / 3
            sampler = ShardedBatchSampler(task.size, batch_size=self.batch_size, offset=dealt)
            dealt += len(sampler.batches)
            rows = TensorDataset(torch.arange(task.size), inputs, inputs @ target)
            loaders.append(DataLoader(rows, batch_sampler=sampler))
        return loaders

    def val_dataloader(self) -> list[DataLoader]:
        return self._loaders(1000)

    def selection_dataloader(self) -> list[DataLoader]:
        return self._loaders(3000)

    def test_dataloader(self) -> list[DataLoader]:
        return self._loaders(2000)


def make_models(folder: Path, *, tasks: int, seed: int = 0) -> tuple[Path, dict[str, Path]]:
    """Save a base and one expert per task that leans towards the task's target network."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.Linear(8, WIDTH))
    start = {k: v.clone() for k, v in net.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base").mkdir()
    save_file(start, folder / "base" / FILE)
    experts = {}
    for task in range(tasks):
        net.load_state_dict(start)
        target = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(100 + task)) / 3
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            inputs = torch.randn(32, WIDTH)
            loss = (net(inputs) - inputs @ target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        path = folder / f"task{task}"
        path.mkdir()
        save_file({k: v.detach().clone() for k, v in net.state_dict().items()}, path / FILE)
        experts[f"task{task}"] = path
    return folder / "base", experts
