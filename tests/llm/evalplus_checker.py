"""EvalPlus's own checker, run in a container without network: reads a job from stdin, prints verdicts as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Print [{"base": status, "plus": status}, ...] of each problem's programs, by task id, one line a problem."""
    from evalplus.data.mbpp import mbpp_deserialize_inputs
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    for line in sys.stdin:
        problem, programs = json.loads(line)
        dataset, name = problem["task_id"].partition("/")[0].lower(), problem["entry_point"]
        groups: dict[str, tuple[list[Any], list[Any], list[float]]] = {}
        for group in "base", "plus":
            inputs = problem[f"{group}_input"]
            if dataset == "mbpp":
                inputs = mbpp_deserialize_inputs(problem["task_id"], inputs)
            expected, seconds = trusted_exec(
                problem["prompt"] + problem["canonical_solution"],
                inputs,
                name,
                record_time=True,
                output_not_none=dataset == "mbpp" and name in MBPP_OUTPUT_NOT_NONE_TASKS,
            )
            groups[group] = (inputs, expected, seconds)
        verdicts = [
            {
                group: untrusted_check(
                    dataset, program, inputs, name, expected, problem["atol"], seconds, fast_check=True
                )[0]
                for group, (inputs, expected, seconds) in groups.items()
            }
            for program in programs
        ]
        print(json.dumps([problem["task_id"], verdicts]), flush=True)


if __name__ == "__main__":
    main()
