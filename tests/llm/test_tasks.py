import json
import random
from concurrent.futures import Future
from pathlib import Path

import pytest

from cyqd.llm.environments import Limits
from cyqd.llm.tasks import Coding, Database, OperatingSystem, Problem, Task, Turn
from cyqd.llm.tasks.base import shorten
from cyqd.llm.tasks.database import same_rows, same_table, table_hash
from cyqd.llm.tasks.replies import code_or_raw, python_program

PETS = "CREATE TABLE pets (name TEXT, age INTEGER); INSERT INTO pets VALUES ('bo', 3), ('cy', 7), ('dee', 7);"
CODING = {"prompt": "Write double(x).", "tests": ["assert double(2) == 4", "assert double(-3) == -6"]}
SELECT = {"prompt": "Names of age 7.", "setup": PETS, "expected": [["dee"], ["cy"]]}
UPDATE = {
    "prompt": "All are a year older.",
    "setup": PETS,
    "state": {"pets": [["bo", 4], ["cy", 8], ["dee", 8]]},
}
SHOW = {
    "prompt": "Show a.txt sorted.",
    "files": {"d/a.txt": "b\na\n"},
    "setup": "cp d/a.txt .",
    "expected": "a\nb",
}
CHECK = {
    "prompt": "Remove a.txt.",
    "files": {"a.txt": "", "b.txt": ""},
    "check": "test ! -e a.txt && test -e b.txt",
}


def write(path: Path, *records: dict) -> Path:
    """Write records as problems and fill up to two."""
    numbered = [{"id": f"p{i}", **record} for i, record in enumerate([*records, records[0]])]
    path.write_text("".join(json.dumps(record) + "\n" for record in numbered), encoding="utf-8")
    return path


def judge(kind: type[Task], path: Path, record: dict, *replies: str, **options) -> Turn:
    task = kind(write(path / "problems.jsonl", record), **options)
    return task.submit(task.problems("optimisation")[0], replies).result()


# Finding the program


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Here:\n```py\ndef f():\n    pass\n```\nand\n```python\nf()\n```", "def f():\n    pass"),
        ("```bash\nls\n```\n```\nx = 1\n```", "x = 1"),
        ("```python\ndef f():\n    retu", "def f():\n    retu"),
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        ("Sure, this is it:\nimport os\nos.getcwd()", "import os\nos.getcwd()"),
        ("f = lambda x: x", "f = lambda x: x"),
        ("I cannot do that.", None),
        ("x == 1", None),
        ("```python\n```", None),
        ("", None),
    ],
)
def test_python_program(reply, program):
    assert python_program(reply) == program


def test_code_or_raw():
    assert code_or_raw("  SELECT 1 ", "sql") == "SELECT 1"
    assert code_or_raw("So:\n```SQL\nSELECT 1;\n```\n", "sql") == "SELECT 1;"
    assert code_or_raw("```\nls\n```", "bash") == "ls"


def test_observations_are_cut():
    assert shorten("  abcdefghij ", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcdefg..."


# Comparing rows


def test_rows_are_a_multiset_unless_ordered():
    assert same_rows([[1, "a"], [None, "b"]], [[None, "b"], [1, "a"]])
    assert not same_rows([[1], [2]], [[2], [1]], ordered=True)
    assert not same_rows([[1], [1]], [[1]])
    assert not same_rows([[1, 2]], [[1]])
    assert same_rows([], [])


def test_values_are_equal_as_numbers_but_not_across_types():
    assert same_rows([[3.0, 0.1 + 0.2]], [[3, 0.3]])
    assert not same_rows([["3"]], [[3]])
    assert not same_rows([[None]], [[0]])
    assert not same_rows([[2**60]], [[2**60 + 1]])


def test_table_hash_ignores_order_and_kind_of_number():
    rows = [[1, "é"], [2.5, None]]
    assert table_hash(rows) == table_hash([[2.5, None], [1.0, "é"]]) != table_hash(rows[:1])
    assert same_table(rows, table_hash(rows))


# Reading problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found 0 problems"),
        ('{"id": "a", "prompt": "p", "tests": ["assert f"]}\n', "found 1 problems"),
        ('{"id": "a", "prompt": "p", "tests": ["assert f"]}\n\n{"id"', "line 3: no valid JSON"),
        ("[1]\n", "line 1: expected a JSON object"),
        ('{"prompt": "p", "tests": ["assert f"]}\n', "line 1: the key 'id' is missing"),
        ('{"id": "a", "tests": ["assert f"]}\n', "line 1: the key 'prompt' is missing"),
        ('{"id": "a", "prompt": "p"}\n', "line 1: problem: the key 'tests' is missing"),
        ('{"id": "a", "prompt": "p", "tests": []}\n', "line 1: problem: 'tests' must be a list"),
        ('{"id": "a", "prompt": [{"role": "cat"}], "tests": ["assert f"]}\n', "must hold messages"),
        ('{"id": "a", "prompt": "p", "tests": ["assert f"]}\n' * 2, "line 2: the id 'a' is taken by line 1"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        Coding(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        Coding(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("kind", "record", "message"),
    [
        (Database, {**SELECT, "state": {}}, "exactly one"),
        (Database, {**SELECT, "expected": "all"}, "list of lists"),
        (OperatingSystem, {**SHOW, "check": "true"}, "exactly one"),
        (OperatingSystem, {**SHOW, "expected": " "}, "not empty"),
        (OperatingSystem, {**SHOW, "files": ["a"]}, "'files'"),
    ],
)
def test_a_bad_problem_is_named(tmp_path, kind, record, message):
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        kind(write(tmp_path / "problems.jsonl", record))


def test_split_is_even_disjoint_and_independent_of_the_files_order(tmp_path):
    records = [{"id": f"p{i}", **CODING} for i in range(31)]
    halves = []
    for name in "ab":
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        random.Random(0).shuffle(records)
        task = Coding(path, split_seed=3)
        halves.append([[p.id for p in task.problems(split)] for split in ("optimisation", "test")])
    assert halves[0] == halves[1]
    first, second = halves[0]
    assert (len(first), len(second)) == (16, 15)
    assert len({*first, *second}) == 31
    limited = Coding(tmp_path / "a", split_seed=3, limit=5, test_limit=7)
    assert [p.id for p in limited.problems("optimisation")] == first[:5]
    assert [p.id for p in limited.problems("test")] == second[:7]
    assert [p.id for p in limited.problems("selection")] == first[5:10]
    kept = Coding(tmp_path / "a", split_seed=3, limit=5, selection_limit=20)
    assert [p.id for p in kept.problems("selection")] == first[5:]
    assert [p.id for p in Coding(tmp_path / "a", split_seed=4).problems("test")] != second


def test_prompt_may_be_messages_and_a_system_message_goes_first(tmp_path):
    dialogue = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    task = Coding(write(tmp_path / "p", {**CODING, "prompt": dialogue}), system="Be brief.")
    assert [m["content"] for m in task.problems("test")[0].messages] == ["Be brief.", "a", "b", "c"]


def test_a_task_with_another_grammar_fits(tmp_path):
    class Echo(Task):
        default_name = "echo"

        def check_spec(self, spec):
            if "answer" not in spec:
                raise ValueError("no answer")

        def submit(self, problem, replies):
            future: Future[Turn] = Future()
            future.set_result(Turn(done=True, score=float(replies[-1] == problem.spec["answer"])))
            return future

    assert judge(Echo, tmp_path, {"prompt": "Say a.", "answer": "a"}, "a").score == 1


# Judging


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("program", "score"),
    [
        ("def double(x):\n    return 2 * x", 1),
        ("Sure!\n```python\ndef double(x): return x + x\n```", 1),
        ("def double(x):\n    return x", 0),
        ("def double(x): return 2 * x\nimport sys\nsys.exit(0)", 0),
        ("import os\nos._exit(0)", 0),
        ("def double(x", 0),
        ('x = """', 0),
    ],
)
def test_coding_is_pass_at_1(tmp_path, program, score):
    assert judge(Coding, tmp_path, CODING, program) == Turn(done=True, score=score)


@pytest.mark.sandbox
def test_coding_asks_again_only_without_a_program(tmp_path):
    assert "program" in judge(Coding, tmp_path, CODING, "No.").observation
    assert judge(Coding, tmp_path, CODING, "No.", max_turns=1) == Turn(done=True)
    assert judge(Coding, tmp_path, CODING, "No.", "double = lambda x: 2 * x").score == 1
    assert judge(Coding, tmp_path, {**CODING, "setup": "two = 2"}, "double = lambda x: two * x").score == 1


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("record", "sql", "score"),
    [
        (SELECT, "SELECT name FROM pets WHERE age = 7", 1),
        (SELECT, "```sql\nSELECT name FROM pets WHERE age > 3;\n```", 1),
        (SELECT, "SELECT name FROM pets", 0),
        (SELECT, "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n", 0),
        ({**SELECT, "ordered": True}, "SELECT name FROM pets WHERE age = 7 ORDER BY name", 0),
        ({**SELECT, "ordered": True}, "SELECT name FROM pets WHERE age = 7 ORDER BY name DESC", 1),
        (UPDATE, "UPDATE pets SET age = age + 1", 1),
        (UPDATE, "UPDATE pets SET age = 8", 0),
        (UPDATE, "SELECT name, age + 1 FROM pets", 0),
        (UPDATE, "DROP TABLE pets", 0),
        ({**UPDATE, "state": {"pets": table_hash([])}}, "DELETE FROM pets", 1),
        (SELECT, "SELECT x'00ff'", 0),
    ],
)
def test_database_compares_rows_or_tables(tmp_path, record, sql, score):
    assert judge(Database, tmp_path, record, sql) == Turn(done=True, score=score)


@pytest.mark.sandbox
def test_database_reports_errors_and_lets_try_again(tmp_path):
    wrong = "SELECT name FROM pet"
    assert judge(Database, tmp_path, SELECT, wrong).observation == "Error: no such table: pet"
    assert judge(Database, tmp_path, SELECT, wrong, observation_limit=12).observation == "Error: no..."
    assert judge(Database, tmp_path, SELECT, wrong, max_turns=1) == Turn(done=True)
    assert judge(Database, tmp_path, SELECT, wrong, "SELECT name FROM pets WHERE age = 7").score == 1
    for empty in "", "```sql\n```", "SELECT 1; SELECT 2", "\0", "\ud800", "SELECT ?":
        assert "Error" in judge(Database, tmp_path, SELECT, empty).observation


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("record", "command", "score"),
    [
        (SHOW, "sort a.txt", 1),
        (SHOW, "```bash\nsort d/a.txt\n```", 1),
        (SHOW, "cat a.txt", 0),
        (SHOW, "sort a.txt; false", 1),
        (CHECK, "rm a.txt", 1),
        (CHECK, "true", 0),
        (CHECK, "rm *.txt", 0),
        (CHECK, "exit 0", 0),
        (CHECK, "kill -9 $PPID; true", 0),
        (CHECK, "echo 'test() { true; }' > ~/.bashrc; export -f test; alias test=true", 0),
    ],
)
def test_os_compares_stdout_or_runs_the_check(tmp_path, record, command, score):
    turn = judge(OperatingSystem, tmp_path, record, command, max_turns=1)
    assert turn == Turn(done=True, score=score)


@pytest.mark.sandbox
def test_os_reports_failures_and_keeps_files_between_replies(tmp_path):
    wrong = "cp a.txt c.txt; cat d/none.txt"
    assert "d/none.txt: No such file" in judge(OperatingSystem, tmp_path, SHOW, wrong).observation
    assert judge(OperatingSystem, tmp_path, SHOW, wrong, "sort c.txt").score == 1
    assert judge(OperatingSystem, tmp_path, SHOW, "exit 3").observation == "Error: exit code 3"
    assert judge(OperatingSystem, tmp_path, CHECK, "rm none", "rm a.txt").score == 1


@pytest.mark.sandbox
def test_a_broken_setup_is_a_fault_not_the_models(tmp_path):
    assert "setup" in (judge(OperatingSystem, tmp_path, {**SHOW, "setup": "cp none x"}, "sort a.txt").fault or "")
    assert "setup" in (judge(Database, tmp_path, {**SELECT, "setup": "CREATE"}, "SELECT 1").fault or "")


@pytest.mark.sandbox
def test_a_time_limit_scores_0_and_is_not_remembered(tmp_path):
    path = write(tmp_path / "p", CODING)
    task = Coding(path, limits=Limits(wall_seconds=0.3))
    problem = task.problems("test")[0]
    endless, good = ["def double(x):\n    while True: pass"], ["double = lambda x: 2 * x"]
    assert task.submit(problem, endless).result() == Turn(done=True)
    assert task.submit(problem, good).result().score == 1
    assert list(task._verdicts) == [(problem.id, tuple(good))]
    assert task.submit(problem, good).done()  # from the cache


@pytest.mark.sandbox
def test_problems_do_not_share_tables_or_files(tmp_path):
    task = Database(write(tmp_path / "p", UPDATE))
    problems: list[Problem] = [*task.problems("optimisation"), *task.problems("test")] * 4
    replies = [["UPDATE pets SET age = age + 1"], ["DELETE FROM pets"]] * 4
    turns = [task.submit(p, r) for p, r in zip(problems, replies, strict=True)]
    assert [turn.result().score for turn in turns] == [1, 0] * 4


def test_the_number_of_replies_is_checked(tmp_path):
    task = Coding(write(tmp_path / "p", CODING), max_turns=2)
    for replies in [], ["a"] * 3:
        with pytest.raises(ValueError, match="1 to 2 replies"):
            task.submit(task.problems("test")[0], replies)
