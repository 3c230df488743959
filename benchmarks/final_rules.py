"""What the final rules make of finished runs of CycleQD: how much of each expert's task vector, and its score.

    python -m benchmarks.final_rules runs/experiments/llm_table1/CycleQD/*

For each run: in how many archives the best elite is still the expert itself; and of each rule's model the mean
score on the test split, the least and the largest share that it holds of an expert's task vector, <τ, τ_k> /
<τ_k, τ_k>, and its length ‖τ‖ beside the experts' mean length.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cyqd.__main__ import main as cyqd
from cyqd.evolution.aggregation import best_quality_elite
from cyqd.report.record import RunRecord, read_run


def main(runs: list[str]) -> None:
    print("| run | experts on top | rule | test | shares | length |\n|---|---|---|---|---|---|")
    for folder in runs:
        run = read_run(Path(folder))
        base = weights(run.config["model"]["init_args"]["base"])
        experts = [weights(run.config["experts"][task]) - base for task in run.tasks]
        length = torch.stack(experts).norm(dim=1).mean()
        means = {row["model"].rpartition(" ")[2]: row["mean"]["mean"] for row in run.results["rows"]}
        for rule in ("aggregate", "gamma", "best_mean"):
            tau = exported(run, rule) - base
            shares = [float(tau @ expert / (expert @ expert)) for expert in experts]
            print(
                f"| {folder} | {experts_on_top(run)} of {len(experts)} | {rule} | {means[rule]:.3f} "
                f"| {min(shares):.2f}–{max(shares):.2f} | {float(tau.norm() / length):.2f} |",
                flush=True,
            )


def experts_on_top(run: RunRecord) -> int:
    """Return in how many archives the elite of highest quality is the task's expert."""
    return sum(best_quality_elite(archive).id == archive.task for archive in run.archives())


def exported(run: RunRecord, rule: str) -> Tensor:
    """Return the weights of a rule's model."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        cyqd(["export", str(run.folder), "--aggregate", "--rule", rule, "--out", folder])
        return weights(folder)


def weights(folder: str) -> Tensor:
    """Return a model's weights as one vector."""
    tensors = {
        name: t for file in sorted(Path(folder).glob("*.safetensors")) for name, t in load_file(file).items()
    }
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


if __name__ == "__main__":
    main(sys.argv[1:])
