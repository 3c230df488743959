"""Milliseconds per trivial job in the sandbox, beside an unconfined fresh interpreter in the same run.

    python benchmarks/sandbox.py [--jobs 200]

Prints medians: the pool's Python and bash jobs, one after the other and on all workers, and
``subprocess.run([sys.executable, "-I", "-c", "pass"])``, which confines nothing, and the ratio to it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from cyqd.llm.environments import Job, Sandbox


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of ``run`` in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs per figure")
    repeats = parser.parse_args().jobs
    python, bash = Job("pass"), Job(":", "bash")
    with Sandbox() as pool:
        start = time.perf_counter()
        assert pool.submit(python).result().completed
        print(f"first job, worker's start included: {(time.perf_counter() - start) * 1e3:.0f} ms")
        bare = milliseconds(lambda: subprocess.run([sys.executable, "-I", "-c", "pass"], check=True), repeats)
        print(f"{'unconfined python -I -c pass':<40}{bare:8.2f} ms")
        for name, job in (("python", python), ("bash", bash)):
            alone = milliseconds(lambda: pool.submit(job).result(), repeats)  # noqa: B023
            start = time.perf_counter()
            for future in [pool.submit(job) for _ in range(repeats)]:
                future.result()
            together = (time.perf_counter() - start) * 1e3 / repeats
            print(f"{f'sandboxed {name} job':<40}{alone:8.2f} ms  ({alone / bare:.2f} of unconfined)")
            print(f"{f'sandboxed {name} job, all workers busy':<40}{together:8.2f} ms  ({together / bare:.2f})")


if __name__ == "__main__":
    main()
