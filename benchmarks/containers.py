"""Environment seconds per problem of AgentBench's operating-system benchmark: the pool beside a plain way.

    python benchmarks/containers.py --problems FILE [--count 40] [--repeats 3]

Every problem is solved by its own example: prepare, run the example, judge. "plain" is one container per problem,
one after the other: run, one exec per script, remove. "first" is a pool from nothing to removed, "pool" one that
has run a round before, as in any but the first generation. Needs a Docker daemon and `python -m cyqd images`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from cyqd.llm.environments.containers import docker_client, labels
from cyqd.llm.scripted import play
from cyqd.llm.tasks import AgentBenchOS, Problem

COMMANDS = {"bash": "bash", "python": "python3"}


def plain(problem: Problem) -> bool:
    """Solve a problem in a container of its own, with an exec for each of its scripts."""
    spec = problem.spec
    container = docker_client().containers.run(
        spec["image"],
        ["sleep", "infinity"],
        detach=True,
        network_mode="none",
        mem_limit="512m",
        pids_limit=256,
        labels=labels(),
    )
    try:

        def run(script: dict[str, str], *arguments: str):
            separator = ["--"] if script["language"] == "bash" and arguments else []
            return container.exec_run([COMMANDS[script["language"]], "-c", script["code"], *separator, *arguments])

        for script in spec["init"]:
            run(script)
        arguments = [run(spec["example"]).output.decode().strip()]
        for script in spec["check"]:
            done = run(script or spec["example"], *arguments)
            if done.exit_code:
                return False
            arguments.append(done.output.decode())
        return True
    finally:
        container.remove(force=True)


def pooled(task: AgentBenchOS, problems: Sequence[Problem]) -> int:
    """Solve problems as an evaluation does."""
    turns = play(task, {problem.id: task.gold(problem) for problem in problems})
    return sum(turn.score == 1 for turn in turns.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, required=True, help="as the task's argument of that name")
    parser.add_argument("--count", type=int, default=40, help="problems, drawn with seed 0")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    task = AgentBenchOS(options.problems)
    known = [p for split in ("optimisation", "test") for p in task.problems(split)]
    known = [p for p in known if p.spec["check"] and p.spec["example"] and not p.spec["start"]]
    known = [p for p in known if "sleep" not in json.dumps(p.spec)]  # which would be most of the time
    problems = random.Random(0).sample(known, min(options.count, len(known)))
    times: dict[str, list[float]] = {"plain": [], "first": [], "pool": []}
    for repeat in range(options.repeats):
        solved = {}
        start = time.perf_counter()
        solved["plain"] = sum(map(plain, problems))
        times["plain"].append((time.perf_counter() - start) / len(problems))

        start = time.perf_counter()
        solved["first"] = pooled(task, problems)
        middle = time.perf_counter()
        solved["pool"] = pooled(task, problems)
        end = time.perf_counter()
        task.close()
        times["pool"].append((end - middle) / len(problems))
        times["first"].append((middle - start + time.perf_counter() - end) / len(problems))
        print(f"round {repeat + 1}: solved of {len(problems)}: {solved}")
    for name, seconds in times.items():
        ratios = [plainly / mine for plainly, mine in zip(times["plain"], seconds, strict=True)]
        shown = ", ".join(f"{second:.3f}" for second in seconds)
        ratio = f"plain takes {statistics.median(ratios):.1f} times as long"
        print(f"{name:<6}{statistics.median(seconds):.3f} s per problem ({shown}); {ratio}")


if __name__ == "__main__":
    main()
