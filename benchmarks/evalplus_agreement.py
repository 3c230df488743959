"""Compare the coding task's verdicts with EvalPlus's own checker's, on reference solutions and mutants of them.

    python -m benchmarks.evalplus_agreement FILE ... [--mutants 6] [--seed 0]

Each FILE is in EvalPlus's format. EvalPlus runs in a container: DOCKER_HOST and CYQD_TEST_BASE_IMAGE say where and
in what. Prints counts of verdicts, and every program about which the two disagree.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from cyqd.llm.tasks import CodingBenchmark
from cyqd.llm.tasks.coding_formats import records
from tests.llm.agreement import evalplus, ours
from tests.llm.mutants import mutants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--mutants", type=int, default=6, help="mutants a problem")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in options.files:
        compare(path, options.mutants, options.seed)


def compare(path: Path, count: int, seed: int) -> None:
    problems = [record for _, record in records(path)]
    programs = {}
    for record in problems:
        reference = record["prompt"] + record["canonical_solution"]
        programs[record["task_id"]] = [reference, *mutants(reference, count, seed)]
    start = time.perf_counter()
    mine = ours(CodingBenchmark(path), programs)
    middle = time.perf_counter()
    theirs = evalplus(problems, programs)
    end = time.perf_counter()
    print(f"{path.name}: {len(problems)} problems; {middle - start:.0f} s here, {end - middle:.0f} s EvalPlus")
    few = {id_: len(found) - 1 for id_, found in programs.items() if len(found) - 1 < min(5, count)}
    print(f"  fewer than 5 mutants: {few or 'none'}")
    kinds = Counter(
        ("reference" if i == 0 else "mutant", *verdict)
        for found in theirs.values()
        for i, verdict in enumerate(found)
    )
    for (kind, base, plus), number in sorted(kinds.items()):
        print(f"  {kind}: base {'passes' if base else 'fails'}, all {'passes' if plus else 'fails'}: {number}")
    differing = [
        (id_, i) for id_, found in programs.items() for i in range(len(found)) if mine[id_][i] != theirs[id_][i]
    ]
    print(f"  disagreements: {len(differing)} of {sum(map(len, programs.values()))}")
    for id_, i in differing:
        print(json.dumps([id_, i, "ours", mine[id_][i], "theirs", theirs[id_][i], programs[id_][i]]))


if __name__ == "__main__":
    main()
