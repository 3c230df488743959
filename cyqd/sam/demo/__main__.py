"""Make the demo's data and model: ``python -m cyqd.sam.demo --out runs/demo/sam --seed 0``."""

import argparse
from pathlib import Path

from cyqd.sam.demo.generate import generate

parser = argparse.ArgumentParser(prog="python -m cyqd.sam.demo", description="Make the demo's data and model.")
parser.add_argument("--out", type=Path, required=True, help="folder to write to; data/ and init/ appear in it")
parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default 0)")
arguments = parser.parse_args()
generate(arguments.out, seed=arguments.seed)
print(f"wrote {arguments.out / 'data'} and {arguments.out / 'init'}")
