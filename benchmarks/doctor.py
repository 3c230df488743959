"""The doctor's estimates against what a real evolution takes, and what the paper's models would take.

    python benchmarks/doctor.py run CONFIG [EVOLVE ARGUMENTS]     estimates and a real run, side by side
    python benchmarks/doctor.py paper                             three Llama-3 8B experts, shapes alone

The run and its singular bases lie in a temporary folder; shorten the run with
``--strategy.init_args.generations 12``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cyqd.evolution import CycleQD, ExpertSpace, GenomeStore
from cyqd.report.record import read_run
from cyqd.report.tables import align
from cyqd.training.estimates import Estimate, Plan, bytes_text, seconds_text
from cyqd.training.timing import time_shapes


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def compare(arguments: list[str]) -> None:
    """Run the doctor, then the evolution, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        run, cache, out = (Path(name) / part for part in ("run", "cache", "doctor.json"))
        common = ["--config", *arguments, "--run", str(run), "--cache", str(cache)]
        command = [sys.executable, "-P", "-m", "cyqd"]
        subprocess.run([*command, "doctor", *common, "--measure", "--out", str(out)], check=True)
        said = {each["what"]: each for each in json.loads(out.read_text(encoding="utf-8"))["estimates"]}
        start = time.perf_counter()
        subprocess.run([*command, "evolve", *common], check=True, capture_output=True)
        wall = time.perf_counter() - start
        evaluations = read_run(run).evaluations
        seconds = {key: fmean(line["seconds"][key] for line in evaluations) for key in ("materialise", "evaluate")}
        genomes = [file.stat().st_size for file in (run / "evolution" / "state" / "genomes").iterdir()]
        kept = int(said["disk: genomes"]["assumption"].split()[2])  # "at most N of ..."
        real = {
            "disk: singular bases": size(cache),
            "disk: genomes": max(genomes) * kept,
            "disk: final model": size(run / "model"),
            "time: write a child": seconds["materialise"],
            "time: evaluate a child": seconds["evaluate"],
            "time: the whole run": wall,
        }
        write = {"bytes": bytes_text, "seconds": seconds_text}
        lines = [
            [what, write[unit](amount), write[unit](real[what]), f"{amount / real[what]:.2f}"]
            for what, (amount, unit) in ((what, (said[what]["amount"], said[what]["unit"])) for what in real)
        ]
        print(align(["", "estimated", "real", "ratio"], lines))
        print(f"real: largest genome × {kept}; {len(genomes)} were kept at the end, {bytes_text(sum(genomes))}")


def paper() -> None:
    """Print what three experts of Llama-3 8B would take, on one process of this machine."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    base = {name: parameter.detach().bfloat16() for name, parameter in model.named_parameters()}
    for rank in (None, 64):
        space = ExpertSpace(base, [base] * 3, ["coding", "database", "os"], rank=rank)
        strategy = CycleQD()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with tempfile.TemporaryDirectory() as name:
            strategy.setup(space, GenomeStore(Path(name) / "genomes", space), 0)
            weights = sum(tensor.nbytes for tensor in base.values())
            plan = Plan(
                space, strategy, [space.names] * 3, [[0, 1, 2]], weights=weights, on_cpu=device.type == "cpu"
            )
            start = time.perf_counter()
            measured = time_shapes(
                space, spectral=True, dtype=torch.bfloat16, device=device, folder=Path(name) / "bases"
            )
            taken = time.perf_counter() - start
        estimates: list[Estimate] = [*plan.sizes(), *plan.times(measured, None, None)]
        print(f"\nrank {rank or 'full'}, on {device.type}; shapes tried in {seconds_text(taken)}\n")
        print(align(["", "", "assumption"], [[e.what, str(e), e.assumption] for e in estimates]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and len(sys.argv) > 2:
        compare(sys.argv[2:])
    elif sys.argv[1:] == ["paper"]:
        paper()
    else:
        sys.exit(__doc__)
