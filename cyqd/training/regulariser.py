"""Keeping an expert similar to others while it is fine-tuned, so that they merge well (paper, section 4.2.3)."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from cyqd.evolution.spectrum import as_matrix
from cyqd.training.module import EvolvableModule
from cyqd.training.run import open_space


class SimilarityRegulariser(L.Callback):
    """Adds weight · (1 − similarity) to the loss of a ``fit``, where similarity is to given other experts.

    The similarity of two experts is the mean over matrices of cos(σ_A, σ_B), the cosine of their task vectors'
    singular values; here it is differentiated through the singular values, whose gradient is U diag(·) Vᵀ. As a
    decomposition costs more than a step, the term is added every few steps and then counts as many times. It joins
    the gradients after they have been averaged over processes and unscaled, and before they are clipped.

    Args:
        experts: saved models of the same base to stay close to.
        weight: of the term.
        every_n_steps: add it at every n-th optimizer step, ``every_n_steps`` times as strong.
        start_step: leave it out before this step: a task vector that is still short has a large gradient.
        matrices: differentiate only so many matrices at a time, drawn by the step's number; all if not given.

    Raises:
        ValueError: if there is no expert, or a number is out of range.
    """

    def __init__(
        self,
        experts: list[Path],
        *,
        weight: float = 1.0,
        every_n_steps: int = 10,
        start_step: int = 10,
        matrices: int | None = None,
    ) -> None:
        if not experts:
            raise ValueError("SimilarityRegulariser: experts is empty; give at least one to stay similar to")
        if weight < 0:
            raise ValueError(f"SimilarityRegulariser: weight must be at least 0, got {weight}")
        for key, number in {"every_n_steps": every_n_steps, "matrices": matrices, "start_step": start_step}.items():
            if number is not None and number < 1:
                raise ValueError(f"SimilarityRegulariser: {key} must be at least 1, got {number}")
        self.paths = {str(path): Path(path) for path in experts}
        self.weight = weight
        self.every_n_steps = every_n_steps
        self.start_step = start_step
        self.matrices = matrices

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the base and the other experts, memory-mapped.

        Raises:
            FileNotFoundError: if an expert is missing.
            ValueError: if an expert does not fit the base, or the model is not trained as whole matrices.
        """
        assert isinstance(pl_module, EvolvableModule)
        live = pl_module.evolved_parameters()
        stored = pl_module.read_weights(pl_module.base)
        if any(name not in stored or stored[name].shape != p.shape for name, p in live.items()):
            raise ValueError(
                "SimilarityRegulariser needs the base's own matrices, whole on every process: train without LoRA, "
                "and without a strategy that shards parameters"
            )
        self._space = open_space(pl_module, self.paths, key="experts of SimilarityRegulariser")
        self._space.to(trainer.strategy.root_device)
        self._trained = [
            name
            for name in self._space.matrices()
            if live[name].requires_grad
            and any(self._space.task_vector(k, name).any() for k in range(len(self.paths)))
        ]
        if not self._trained:
            raise ValueError(
                f"SimilarityRegulariser: no matrix that trains here differs from the base in {[*self.paths]}"
            )
        self._sigmas: dict[str, list[Tensor]] = {}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the term's gradient where it is due."""
        assert isinstance(pl_module, EvolvableModule)
        step = trainer.global_step
        if step < self.start_step or step % self.every_n_steps:
            return
        live = pl_module.evolved_parameters()
        count = min(self.matrices or len(self._trained), len(self._trained))
        cosines = []
        for name in random.Random(step).sample(self._trained, count):
            base = self._space.base[name].to(live[name].device).float()
            others = [sigma for sigma in self._others(name) if sigma.any()]
            with torch.enable_grad(), torch.autocast(base.device.type, enabled=False):
                tau = as_matrix(live[name].float() - base)
                if not others or not tau.any():
                    continue
                sigma = torch.linalg.svdvals(tau)
                cosine = torch.stack([F.cosine_similarity(sigma, other, dim=0) for other in others]).mean()
                (gradient,) = torch.autograd.grad(cosine, live[name])  # not backward(): DDP watches that
            before = live[name].grad
            added = gradient * (-self.weight * self.every_n_steps / count)
            live[name].grad = added if before is None else before + added
            cosines.append(cosine.item())
        if cosines:
            pl_module.log("train/similarity", fmean(cosines), prog_bar=True)

    def _others(self, name: str) -> list[Tensor]:
        """Return the singular values of the other experts' task vectors, computed once."""
        if name not in self._sigmas:
            vectors = [self._space.task_vector(k, name) for k in range(len(self.paths))]
            self._sigmas[name] = [torch.linalg.svdvals(as_matrix(tau)) for tau in vectors]
        return self._sigmas[name]
