import random
from pathlib import Path

import pytest

from benchmarks.fresh_llm import GRAMMARS
from cyqd.llm.demo.generate import GRAMMARS as DEMO
from cyqd.llm.demo.generate import TASKS, check_disjoint, generate

TRIVIAL = {
    "coding": ["", "def g(s):\n    return s", "def g(s):\n    return s.split()", "def g(s):\n    return ''"],
    "database": ["", "SELECT 1", "SELECT NULL", "SELECT * FROM tools", "UPDATE tools SET stock = 5"],
    "os": ["", "true", "ls", "cat *", "echo 1"],
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fresh")
    generate(out, seed=0, grammars=GRAMMARS)
    return out


@pytest.mark.sandbox
@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
def test_gold_replies_pass_and_trivial_ones_do_not(fresh, grammar):
    task = TASKS[grammar.name](fresh / "data" / f"{grammar.name}.jsonl")
    sample = [*task.problems("optimisation")[:40], *task.problems("test")[:40]]

    def rate(replies):
        turns = [task.submit(problem, [reply]) for problem, reply in zip(sample, replies, strict=True)]
        return sum(turn.result().score for turn in turns) / len(sample)

    assert rate([problem.spec["gold"] for problem in sample]) == 1
    for reply in TRIVIAL[grammar.name]:
        assert rate([reply] * len(sample)) <= 0.03, reply


@pytest.mark.sandbox
def test_training_shares_nothing_with_the_problems(fresh):
    check_disjoint(fresh / "data", GRAMMARS)


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
def test_problems_are_a_function_of_the_seed(grammar):
    sentences = list(grammar.sentences())[::100]
    first, again, other = ([grammar.record(s, random.Random(seed)) for s in sentences] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("grammar", "demo"), list(zip(GRAMMARS, DEMO, strict=True)), ids=lambda grammar: grammar.name
)
def test_a_sentence_is_unique_and_none_of_the_demos(grammar, demo):
    sentences = list(grammar.sentences())
    assert len({s.prompt for s in sentences}) == len({s.reply for s in sentences}) == len(sentences)
    assert not {s.reply for s in sentences} & {s.reply for s in demo.sentences()}
