import gzip
import json
from pathlib import Path

import pytest

from cyqd.llm.environments import Limits
from cyqd.llm.tasks import CodingBenchmark, Turn
from cyqd.llm.tasks.coding import pass_at_k
from cyqd.llm.tasks.coding_formats import convert
from cyqd.llm.tasks.replies import python_program

FENCE = "```"
DOUBLE = {
    "task_id": "Mbpp/9001",
    "prompt": '"""\nDouble a number.\nassert double(2) == 4\n"""\n',
    "entry_point": "double",
    "canonical_solution": "\ndef double(x):\n    return x * 2\n",
    "base_input": [[2], [-3]],
    "plus_input": [[0], [1e300], [float("inf")], ["ab"], [[1, None]], [2**80]],
    "atol": 0,
}
HALF = {
    "task_id": "HumanEval/9002",
    "prompt": 'import math\n\n\ndef half(x):\n    """Halve a number.\n\n    >>> half(3)\n    1.5\n    """\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "def check(candidate):\n    assert candidate(3) == 1.5\n    assert abs(candidate(1) - 0.5) < 1e-6\n",
}
TRIPLE = {
    "text": "Write a function to triple a number",
    "code": "class Number:\r\n\tpass\r\ndef times(x, y): return x * y\r\ndef triple(x):\r\n\treturn times(x, 3)",
    "task_id": 9003,
    "test_setup_code": "number = Number()",
    "test_list": ["assert triple(2) == 6", "assert triple(0) == 0"],
    "challenge_test_list": [],
}
SHIFT = {
    "source_file": "x",
    "task_id": 9004,
    "prompt": "Write a function to add 1.",
    "code": "def shift(x):\n    return x + 1",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(shift(2), 3)"],
}


def fenced(program: str) -> str:
    return f"{FENCE}python\n{program}\n{FENCE}"


def write(path: Path, *records: dict) -> Path:
    """Write records and one more problem, so that they can be split."""
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, {**SHIFT, "task_id": 1}]))
    return path


def judge(tmp_path: Path, record: dict, *replies: str, **options) -> Turn:
    task = CodingBenchmark(write(tmp_path / "problems.jsonl", record), **options)
    problem = next(p for split in ("optimisation", "test") for p in task.problems(split) if p.id != "Mbpp/1")
    return task.combine([task.submit(problem, [reply]).result() for reply in replies])


# Reading files


def test_formats_are_recognised_in_jsonl_lists_and_gzip(tmp_path):
    records = [DOUBLE, HALF, TRIPLE, SHIFT]
    lines = write(tmp_path / "a.jsonl", *records)
    whole = tmp_path / "b.json"
    whole.write_text(json.dumps([*records, {**SHIFT, "task_id": 1}], indent=1))
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    found = [CodingBenchmark(path) for path in (lines, whole, packed)]
    problems = [{p.id: p for split in ("optimisation", "test") for p in task.problems(split)} for task in found]
    assert problems[0] == problems[1] == problems[2]
    assert sorted(problems[0]) == ["HumanEval/9002", "Mbpp/1", "Mbpp/9001", "Mbpp/9003", "Mbpp/9004"]
    assert problems[0]["Mbpp/9003"].spec["name"] == "triple"
    assert found[0].measures == ("plus",)


def test_lines_end_at_newlines_only(tmp_path):
    record = {**DOUBLE, "prompt": DOUBLE["prompt"].replace("number", "num\u2028ber")}
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(record, ensure_ascii=False)}\n\n{json.dumps(SHIFT)}", encoding="utf-8")
    assert len(CodingBenchmark(path).load()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found 0 problems"),
        ("{", "line 1: no valid JSON"),
        ("[1]", "entry 1: expected a JSON object, got int"),
        ('{"id": "a", "prompt": "p"}', "line 1: neither EvalPlus's .* there are the keys id, prompt"),
        (json.dumps({**DOUBLE, "base_input": []}), "line 1: 'base_input' must be a list that is not empty"),
        (json.dumps({**DOUBLE, "plus_input": [3]}), "must be lists of argument lists"),
        (json.dumps({**HALF, "test": 3}), "'test' must be a str"),
        (json.dumps({**TRIPLE, "code": "x = 3"}), "'code' defines no function"),
        (json.dumps(DOUBLE) + "\n" + json.dumps(DOUBLE), "line 2: the task_id 'Mbpp/9001' occurs twice"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        CodingBenchmark(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        CodingBenchmark(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "rude"}, "style must be"),
        ({"min_seconds": 0}, "min_seconds must be more than 0"),
        ({"pass_at": [1, 3], "samples": 2}, "pass_at must hold numbers from 1 to samples, 2; got 3"),
    ],
)
def test_arguments_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        CodingBenchmark(write(tmp_path / "p", DOUBLE), **options)


def test_inputs_get_the_types_that_json_lacks():
    assert convert("Mbpp/2", [[[1], [2]]]) == [[(1,), (2,)]]
    assert convert("Mbpp/63", [[[[1, 2]]]]) == [[[(1, 2)]]]
    assert convert("Mbpp/259", [[[[1, 2]], [[3]]]]) == [[((1, 2),), ((3,),)]]
    assert convert("Mbpp/106", [[[1], [2]]]) == [[[1], (2,)]]
    assert convert("Mbpp/307", [[[1], 2, 3]]) == [[(1,), 2, 3]]
    assert convert("Mbpp/115", [[[[1], []]]]) == [[[{1}, {}]]]
    assert convert("Mbpp/124", [["1", "2j"]]) == [(1.0, 2j)]
    assert convert("Mbpp/252", [["1+2j"]]) == [[1 + 2j]]
    assert convert("Mbpp/278", [[[1, [2]]]]) == [[(1, (2,))]]
    assert convert("Mbpp/722", [[{"a": [1]}, 2]]) == [[{"a": (1,)}, 2]]
    assert convert("Mbpp/580", [[[1, [2]]]]) == [((1, (2,)),)]
    assert convert("HumanEval/2", [[[1], [2]]]) == [[[1], [2]]]


# Asking


def test_prompts_are_those_of_evalplus_and_of_the_papers_code(tmp_path):
    path = write(tmp_path / "p", DOUBLE, HALF, TRIPLE)
    asked = {
        style: {p.id: [m["content"] for m in p.messages] for p in CodingBenchmark(path, style=style).load()}
        for style in ("chat", "instruction")
    }
    problem = DOUBLE["prompt"].strip()
    assert asked["chat"]["Mbpp/9001"] == [
        "Please provide a self-contained Python script that solves the following problem in a markdown code "
        f"block:\n{FENCE}\n{problem}\n{FENCE}\n",
        "Below is a Python script with a self-contained function that solves the problem and passes corresponding "
        f"tests:\n{FENCE}python\n",
    ]
    assert asked["instruction"]["Mbpp/9001"] == [
        "Double a number. Your code should satisfy the following assertion:\n"
        f"{FENCE}python\nassert double(2) == 4\n{FENCE}",
        f"{FENCE}python",
    ]
    assert asked["instruction"]["Mbpp/9003"][0].startswith("Write a function to triple a number. Your code")
    head = HALF["prompt"].strip()
    assert asked["instruction"]["HumanEval/9002"] == [
        f"Write a solution to the following problem:\n{FENCE}python\n{head}\n{FENCE}",
        f"{FENCE}python\n{head}",
    ]
    task = CodingBenchmark(path, system="Be brief.")
    assert [m["role"] for m in task.problems("test")[0].messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        (f"{FENCE}python\nx = 1\n{FENCE}\nor\n{FENCE}python\ndef f():\n    pass\n{FENCE}", "def f():\n    pass"),
        (f"Use:\n{FENCE}\nf = abs\n{FENCE}\n{FENCE}python\nf(1)\n{FENCE}", "f = abs"),
        (f"{FENCE}python\ndef f(): return 1{FENCE}\nDone.", "def f(): return 1"),
        (f"{FENCE}python\n\n{FENCE}python\ndef f(): return 1\n{FENCE}", "def f(): return 1"),
        ("    return 1\n", "def f():\n    return 1"),
        (f"{FENCE}python\n    return 1\n{FENCE}", "def f():\n    return 1"),
        ("    x = 1\n\ndef g():\n    return 2", "def f():\n    x = 1\n\ndef g():\n    return 2"),
        ("It is:\n\ndef f():\n    return 1", "def f():\n    return 1"),
        (f"{FENCE}python\ng = 1\n{FENCE}", "g = 1"),
        ("No.", None),
        ("", None),
    ],
)
def test_the_program_that_was_asked_for_is_found(reply, program):
    assert python_program(reply, name="f", head="def f():\n") == program


# Judging


def test_pass_at_k_is_the_unbiased_estimate():
    assert pass_at_k(5, 0, 3) == 0
    assert pass_at_k(5, 3, 3) == 1
    assert pass_at_k(4, 1, 2) == 1 - 3 / 6
    assert pass_at_k(7, 2, 1) == pytest.approx(2 / 7)


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("program", "score", "plus"),
    [
        ("def double(x):\n    return x + x if x != [1, None] else [1, None, 1, None]", 1, 1),
        ("def double(x):\n    return x * 2 if x else None", 1, 0),
        ("def double(x):\n    return int(x) * 2", 1, 0),
        ("def double(x):\n    return x", 0, 0),
        ("def double(x):\n    print('[4, 0.0]\\n' * 10000)\n    return 2 * x", 1, 1),
        ("def double(x):\n    return 2 * x\nassert double(1) == 3\nprint(double())\ninput()", 1, 1),
        ("def double(x):\n    return 2 * x\n\nThis doubles x.\ndef other(", 1, 1),
        ("double = lambda x: x * 2", 1, 1),
        ("def twice(x):\n    return x * 2", 0, 0),
        ("def double(x):\n    return x * (2 if x < 0", 0, 0),
        ("x = 1\ndef double(x):\n    global n\n    n = n + 1\n    return 2 * x if n < 4 else 0\nn = 0", 1, 0),
        ("import sys\ndef double(x):\n    sys.exit(0)", 0, 0),
        ("import os\ndef double(x):\n    os._exit(0)", 0, 0),
        ("import os\nos._exit(0)", 0, 0),
        # It cannot be forged: the process does not know what is expected.
        ("class A:\n    def __eq__(self, other): return True\ndef double(x):\n    return A()", 0, 0),
        ("class A(int):\n    def __eq__(self, other): return True\ndef double(x):\n    return A(5)", 0, 0),
        ("import json\njson.dumps = lambda *a, **k: '[4, 0.0]'\ndef double(x):\n    return 4", 0, 0),
        ("import builtins\nbuiltins.all = builtins.bool = lambda x: 1\ndef double(x):\n    return 1", 0, 0),
        ("import os\ndef double(x):\n    for i in range(3, 30):\n        try: os.write(i, b'[4, 0]\\n')\n"
         "        except OSError: pass\n    return 4", 0, 0),
        ("def double(x):\n    import __main__\n    __main__.encode = lambda y: 4\n    return 4", 0, 0),
        ("class C(complex): real = 10**400\ndef double(x):\n    return C(1)", 0, 0),
        ("def double(x):\n    a = []\n    a.append(a)\n    return a", 0, 0),
    ],
)  # fmt: skip
def test_evalplus_scores_base_and_plus(tmp_path, program, score, plus):
    assert judge(tmp_path, DOUBLE, fenced(program)) == Turn(done=True, score=score, measures={"plus": plus})


@pytest.mark.sandbox
def test_time_limits_follow_the_reference(tmp_path):
    slow = {
        **DOUBLE,
        "canonical_solution": "\nfrom time import process_time\ndef double(x):\n    end = process_time() + 0.1\n"
        "    while process_time() < end: pass\n    return 2 * x\n",
        "plus_input": [],
    }
    work = "from time import process_time\ndef double(x):\n    end = process_time() + {}\n"
    work += "    while process_time() < end:\n        try: pass\n        except: pass\n    return 2 * x"
    options = {"min_seconds": 0.05, "time_factor": 3.0}
    assert judge(tmp_path, slow, fenced(work.format(0.2)), **options).score == 1
    assert judge(tmp_path, slow, fenced(work.format(0.5)), **options).score == 0
    assert judge(tmp_path, DOUBLE, fenced(work.format(0.2)), **options).score == 0
    assert judge(tmp_path, DOUBLE, fenced("import time\ndef double(x): time.sleep(99)"), **options).score == 0
    stuck = "import signal, time\nfor s in (14, 27): signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
    assert judge(tmp_path, DOUBLE, fenced(stuck), **options).score == 0


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("record", "reply", "score"),
    [
        (HALF, "    return x * 0.5", 1),
        (HALF, "    return x // 2", 0),
        (HALF, fenced("def half(x):\n    return x / 2"), 1),
        (TRIPLE, fenced("class Number: pass\ndef triple(x): return 3 * x"), 1),
        (TRIPLE, fenced("class Number: pass\ndef triple(x): return 2 * x"), 0),
        (SHIFT, "def shift(x):\n    return x + 1", 1),
        (SHIFT, "def shift(x):\n    return x + 1\nIt shifts x.", 1),
        (SHIFT, "def shift(x):\n    return x + 1\nraise SystemExit", 0),
        (SHIFT, "I cannot.", 0),
    ],
)
def test_the_other_formats_are_judged_by_their_asserts(tmp_path, record, reply, score):
    assert judge(tmp_path, record, reply) == Turn(done=True, score=score)


@pytest.mark.sandbox
def test_samples_make_pass_at_k(tmp_path):
    good, base_only = (
        fenced("def double(x):\n    return x * 2"),
        fenced("def double(x):\n    return x and x * 2 or -1"),
    )
    options = {"samples": 4, "pass_at": [1, 2]}
    turn = judge(tmp_path, DOUBLE, good, base_only, "No.", "No.", **options)
    assert turn.score == 0.5
    assert turn.measures == {
        "plus": 0.25,
        "pass@1": 0.5,
        "pass@2": 1 - 1 / 6,
        "plus_pass@1": 0.25,
        "plus_pass@2": 0.5,
    }
    task = CodingBenchmark(write(tmp_path / "q", DOUBLE), **options)
    assert set(task.measures) == set(turn.measures)
    assert judge(tmp_path, DOUBLE, good, plus=False).measures == {}


@pytest.mark.sandbox
def test_gold_replies_pass_and_wrong_ones_fail(tmp_path):
    task = CodingBenchmark(write(tmp_path / "p", DOUBLE, HALF, TRIPLE))
    problems = [*task.problems("optimisation"), *task.problems("test")]
    assert [task.submit(p, task.gold(p)).result().score for p in problems] == [1] * 4
    assert [task.submit(p, task.wrong(p)).result().score for p in problems] == [0] * 4


@pytest.mark.sandbox
def test_a_broken_reference_is_a_fault_not_the_models(tmp_path):
    for broken in ("\ndef double(x):\n    return x.y\n", "\ndef double("):
        turn = judge(tmp_path, {**DOUBLE, "canonical_solution": broken}, fenced("def double(x): return 2 * x"))
        assert "the reference solution of Mbpp/9001" in turn.fault
        assert turn.score == 0
    assert "Mbpp/9003" in judge(tmp_path, {**TRIPLE, "test_list": ["assert triple(2) == 7"]}, "x = 1").fault


@pytest.mark.sandbox
def test_running_out_of_memory_on_plus_inputs_leaves_the_base_score(tmp_path):
    greedy = "def double(x):\n    if x == 1e300: return bytearray(1 << 40)\n    return x * 2"
    turn = judge(tmp_path, DOUBLE, fenced(greedy), limits=Limits(memory_mb=256))
    assert turn == Turn(done=True, score=1, measures={"plus": 0})
