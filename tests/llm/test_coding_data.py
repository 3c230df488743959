"""The coding benchmark on the public data: reference solutions, mutants of them, and EvalPlus's own checker."""

import os
import random
from pathlib import Path

import pytest

from cyqd.llm.environments import Limits
from cyqd.llm.scripted import play
from cyqd.llm.tasks import CodingBenchmark
from cyqd.llm.tasks.coding_formats import records

from .agreement import evalplus, ours
from .mutants import mutants

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MBPP_PLUS, HUMANEVAL_PLUS = "mbpp/mbppplus_v0.2.0.jsonl", "humaneval/humanevalplus_v0.1.10.jsonl"
OLD_MBPP_PLUS = "mbpp/mbppplus_v0.1.0_only.jsonl"

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.data,
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),  # in the data's programs
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the public test data is not at {DATA}"),
]


def task(file: str, **options) -> CodingBenchmark:
    return CodingBenchmark(DATA / file, **options)


def references(benchmark: CodingBenchmark) -> dict[str, str]:
    return {
        problem.id: problem.spec["reference"]
        for split in ("optimisation", "test")
        for problem in benchmark.problems(split)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "count"),
    [
        (MBPP_PLUS, 189),
        (OLD_MBPP_PLUS, 21),
        (HUMANEVAL_PLUS, 82),
        ("mbpp/mbpp_full.jsonl", 785),
        ("mbpp/mbpp_sanitized.jsonl", 238),
        ("humaneval/humaneval.jsonl", 82),
    ],
)
def test_reference_solutions_pass_and_wrong_answers_fail(file, count):
    benchmark = task(file)
    problems = [problem for split in ("optimisation", "test") for problem in benchmark.problems(split)]
    assert len(problems) == count
    gold = play(benchmark, {problem.id: benchmark.gold(problem) for problem in problems})
    assert [id_ for id_, turn in gold.items() if turn.score < 1 or turn.measures.get("plus", 1) < 1] == []
    wrong = play(benchmark, {problem.id: benchmark.wrong(problem) for problem in problems})
    # Mbpp/164: EvalPlus's oracle takes any answer.
    assert [id_ for id_, turn in wrong.items() if turn.score] == (["Mbpp/164"] if file == OLD_MBPP_PLUS else [])
    assert not any(turn.fault for turn in [*gold.values(), *wrong.values()])


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.skipif("CYQD_TEST_BASE_IMAGE" not in os.environ, reason="CYQD_TEST_BASE_IMAGE names no image")
def test_verdicts_on_solutions_and_mutants_are_evalpluss_own():
    for file, sample in (MBPP_PLUS, 16), (OLD_MBPP_PLUS, 4), (HUMANEVAL_PLUS, 8):
        problems = random.Random(1).sample([record for _, record in records(DATA / file)], sample)
        programs = {}
        for record in problems:
            reference = record["prompt"] + record["canonical_solution"]
            programs[record["task_id"]] = [reference, *mutants(reference, 5, seed=1)]
        mine = ours(task(file), programs)
        assert mine == evalplus(problems, programs)
        assert all(verdicts[0] == (True, True) for verdicts in mine.values())
        assert sum(not passes for verdicts in mine.values() for _, passes in verdicts) > 3 * sample


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asserts", "inputs", "exceptions"),
    [
        # Its asserts also call a function that the prompt gives, which some mutants break.
        ("humaneval/humaneval.jsonl", HUMANEVAL_PLUS, {"HumanEval/50"}),
        # EvalPlus takes ((1.0, 0.0), (1.0, 0.0)) for (1.0, 0.0): np.allclose broadcasts.
        ("mbpp/mbpp_sanitized.jsonl", MBPP_PLUS, {"Mbpp/252"}),
    ],
)
def test_asserts_fail_the_mutants_that_base_inputs_fail(asserts, inputs, exceptions):
    by_asserts = task(asserts, limits=Limits(wall_seconds=3, cpu_seconds=1))
    by_inputs = task(inputs, plus=False)
    # Mbpp/123: MBPP's reference solution takes many times as long as EvalPlus's.
    shared = sorted((references(by_asserts).keys() & references(by_inputs).keys()) - {"Mbpp/123"})
    chosen = random.Random(2).sample(shared, 60)
    programs = {id_: mutants(references(by_asserts)[id_], 5, seed=2) for id_ in chosen}
    first, second = base(by_asserts, programs), base(by_inputs, programs)
    assert {id_ for id_ in chosen if first[id_] != second[id_]} == exceptions
    assert sum(not passes for verdicts in first.values() for passes in verdicts) > 200


def base(benchmark: CodingBenchmark, programs: dict[str, list[str]]) -> dict[str, list[bool]]:
    """Return whether each program passes the base tests, by problem id."""
    problems = {p.id: p for split in ("optimisation", "test") for p in benchmark.problems(split)}
    futures = {
        id_: [benchmark.submit(problems[id_], [f"```python\n{text}\n```"]) for text in texts]
        for id_, texts in programs.items()
    }
    return {id_: [future.result().score == 1 for future in found] for id_, found in futures.items()}
