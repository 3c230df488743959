"""AgentBench's DB-bench: its replies, its rule for answers, and its gold statements through whole environments."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cyqd.llm.scripted import check_task, play
from cyqd.llm.tasks import DBBench, Turn
from cyqd.llm.tasks.dbbench import final_answer, operation, same_answer

from .sql_servers import Server, own_server, server_url

DATA = Path(__file__).parents[2] / "../shared/data/dbbench/dbbench.jsonl"
NAME = 'Pets\' "ages"'
SELECT = {
    "description": "Who is 3?",
    "add_description": f"The table is {NAME}.",
    "label": ["bo"],
    "type": ["other"],
    "table": {
        "table_name": NAME,
        "table_info": {
            "columns": [{"name": "name", "type": "TEXT"}, {"name": "age", "type": "INT"}],
            "rows": [["bo", 3], ["cy", "7"]],
        },
    },
}
INSERT = {**SELECT, "type": ["INSERT"], "label": [f"INSERT INTO `{NAME}` VALUES ('dee', '7')"]}
INSERT["answer_md5"] = "[('af213ffd8781e1f993ae9c7973f65c25',)]"
UPDATE = {**SELECT, "type": ["UPDATE"], "label": [f"UPDATE `{NAME}` SET age = '4' WHERE name = 'bo'"]}
UPDATE["answer_md5"] = "[('986aad1de3fd347098015970d27fd79f',)]"


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def operate(sql: str) -> str:
    return f"I look.\nAction: Operation\n```sql\n{sql}\n```\n"


def answer(text: str) -> str:
    return f"Done.\nAction: Answer\nFinal Answer: {text}"


# Replies


@pytest.mark.parametrize(
    ("reply", "sql"),
    [
        (operate("SELECT 1"), "SELECT 1"),
        (operate("SELECT 1\nFROM t;"), "SELECT 1 FROM t;"),
        ("Action: Operation\nSo:\n```sql\nA\n```\n```sql\nB\n```", "A"),
        ("Action: Answer\nAction: Operation\n```sql\nA\n```", None),  # the first action counts
        ("Action: Operation \n```sql\nA\n```", None),
        ("Action: operation\n```sql\nA\n```", None),
        ("Action: Operation\n```SQL\nA\n```", None),
        ("Action: Operation\n```sql\nA", None),
        ("Action: Operation\n```sql A```", None),
        ("Action: Operation", None),
        ("```sql\nA\n```", None),
        ("", None),
    ],
)
def test_operations(reply: str, sql: str | None) -> None:
    assert operation(reply) == sql


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (answer('["a"]'), ' ["a"]'),
        ("\nFinal Answer:a\nFinal Answer: b", "a"),
        ("Final Answer: a", ""),  # not at the start of a line, as the reference searches for it
        ("Answer: a", ""),
    ],
)
def test_final_answers(reply: str, text: str) -> None:
    assert final_answer(reply) == text


DEEP = 5000


@pytest.mark.parametrize(
    ("text", "label", "same"),
    [
        (' ["bo"]', ["bo"], True),
        ("['bo', 'cy', 'bo']", ["cy", "bo"], True),
        ("('bo', 'cy')", ["cy", "bo"], True),
        ("{'bo': 1}", ["bo"], True),
        ("bo", ["bo"], True),
        (" bo", ["bo"], False),  # as in the reference, which does not strip what it cannot read
        ("['Bo']", ["bo"], False),
        ("'bo'", ["b", "o"], True),  # a text has items, too
        ("['bo', 'cy']", ["bo"], False),
        ("[]", ["bo"], False),
        ("", ["bo"], False),
        ("", [""], True),
        ("[3]", ["3.0"], True),
        (" 3", ["3.0"], True),
        ("['3']", ["3.0"], True),
        ("[1e0]", ["1.0"], True),
        ("['3', '4']", ["3.0", "4.0"], False),  # numbers are compared only one against one
        ("[3, 4]", ["3", "4"], False),
        ("['nan']", ["nan"], False),
        ("[None]", ["none"], False),
        ("[['bo'], 'cy']", ["bo", "cy"], False),
        ("[['bo']]", ["bo"], False),
        (f"[{'9' * 4000}]", ["1.0"], False),
        (f"['{'9' * 4000}']", ["inf"], True),
        ("[1 + 1]", ["2"], False),  # the reference evaluates
        ("[x for x in ['bo']]", ["bo"], False),
        ("__import__('os').getcwd()", ["bo"], False),
        ("exit()", ["bo"], False),
        ("(" * DEEP, ["bo"], False),
        ("[" * DEEP + "]" * DEEP, ["bo"], False),
        ("-" * DEEP + "1", ["bo"], False),
        ("1+" * DEEP + "1", ["bo"], False),
        ("not " * (DEEP // 3) + "1", ["bo"], False),
        ("a." * (DEEP // 2) + "a", ["bo"], False),
        ("[" * 10**6, ["bo"], False),
        ("{" * 90 + "}" * 90, ["bo"], False),
        ("9" * 10**6, ["bo"], False),
        ("'\\ud800'", ["bo"], False),
        ("\0", ["bo"], False),
    ],
)
def test_answers_are_compared_as_agentbench_does(text: str, label: list[str], same: bool) -> None:
    assert same_answer(text, label) is same


# Reading


def test_problems_are_read_as_published(tmp_path: Path) -> None:
    named = {**SELECT, "_meta": {"id": "mine"}}
    task = DBBench(write(tmp_path / "standard.jsonl", SELECT, named, INSERT), system="Be brief.")
    problems = {p.id: p for split in ("optimisation", "test") for p in task.problems(split)}  # type: ignore[arg-type]
    assert sorted(problems) == ["mine", "standard-000", "standard-002"]
    messages = problems["standard-000"].messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"].startswith("\nI will ask you a question, then you should help me operate a MySQL")
    assert [message["content"] for message in messages[2:]] == ["Ok.", f"Who is 3?\nThe table is {NAME}."]


def test_a_folder_holds_all_of_its_files(tmp_path: Path) -> None:
    write(tmp_path / "standard.jsonl", SELECT, INSERT)
    write(tmp_path / "dev.jsonl", UPDATE)
    task = DBBench(tmp_path)
    problems = [p.id for split in ("optimisation", "test") for p in task.problems(split)]  # type: ignore[arg-type]
    assert sorted(problems) == ["dev-000", "standard-000", "standard-001"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": ["UPDATE"]}, "line 2: the key 'answer_md5'"),
        ({"type": []}, "line 2: this is not DB-bench's format"),
        ({"label": [3]}, "line 2: .*expected a text, got 3"),
        ({"label": []}, "line 2: a label"),
        ({"table": {"table_name": "t"}}, "line 2: the key 'table_info'"),
        ({"_meta": {"id": "p-000"}}, "line 2: the id 'p-000' is taken"),
        ({"_meta": {"id": 7}}, "line 2: .*expected a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DBBench(write(tmp_path / "p.jsonl", SELECT, {**SELECT, **change}))


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", SELECT, SELECT)
    with pytest.raises(ValueError, match="task database: engine must be"):
        DBBench(path, engine="oracle://")
    with pytest.raises(ValueError, match="statement_seconds"):
        DBBench(path, statement_seconds=0)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        DBBench(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="found 1 problems"):
        DBBench(write(tmp_path / "one.jsonl", SELECT))


def test_tables_that_no_engine_takes_are_named(tmp_path: Path) -> None:
    info = {"columns": [{"name": "a"}, {"name": "A"}], "rows": []}
    broken = {**SELECT, "table": {"table_name": "t", "table_info": info}}
    with pytest.warns(UserWarning, match="p-001 have columns"):
        DBBench(write(tmp_path / "p.jsonl", SELECT, broken))


# Dialogues


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., DBBench]:
    """Make a task of three problems, p-000 to p-002: SELECT, INSERT and UPDATE."""
    engine = "sqlite://" if request.param == "sqlite" else server_url()

    def of(**options: object) -> DBBench:
        task = DBBench(write(tmp_path / "p.jsonl", SELECT, INSERT, UPDATE), engine=engine, **options)
        request.addfinalizer(task.close)
        return task

    return of


@pytest.mark.sandbox
def test_dialogues_end_and_are_judged(make: Callable[..., DBBench]) -> None:
    task = make()
    gold = {p.id: task.gold(p) for split in ("optimisation", "test") for p in task.problems(split)}
    turns = play(task, gold)
    assert {turn.score for turn in turns.values()} == {1.0}
    assert [turn.measures for turn in turns.values()].count({"INSERT": 1.0}) == 1
    read, change = operate(f"SELECT * FROM `{NAME}`"), gold["p-001"][0]
    heard = []

    def listen(observation: str) -> str:
        heard.append(observation)
        return answer("['bo']")

    assert play(task, {"p-000": [read, listen]})["p-000"] == Turn(True, 1.0, measures={"SELECT": 1.0})
    assert heard == ["[('bo', '3'), ('cy', '7')]"]
    scripts = {"p-000": ["no form"], "p-001": [change, "no form"], "p-002": [change, answer("[]")]}
    assert [turn.score for turn in play(task, scripts).values()] == [0.0, 1.0, 0.0]
    assert [turn.score for turn in play(task, {i: [""] for i in scripts}).values()] == [0.0] * 3
    assert play(task, {"p-001": [change] * 2})["p-001"].score == 0.0  # twice is too often


@pytest.mark.sandbox
def test_five_operations_and_an_answer(make: Callable[..., DBBench]) -> None:
    task, read = make(), operate("SELECT 1")
    insert = task.gold(next(p for s in ("optimisation", "test") for p in task.problems(s) if p.id == "p-001"))[0]
    turns = play(task, {"p-000": [*[read] * 5, answer("bo")], "p-001": [*[read] * 4, insert, read]})
    assert [turn.score for turn in turns.values()] == [0.0, 1.0]  # " bo" is not "bo"
    assert play(task, {"p-001": [*[read] * 5, insert]})["p-001"].score == 0.0  # the sixth is only read
    assert play(make(max_turns=1), {"p-000": [answer("['bo']")]})["p-000"].score == 1.0


def test_agentbenchs_score_is_the_mean_of_three(tmp_path: Path) -> None:
    task = DBBench(write(tmp_path / "p.jsonl", SELECT, INSERT))
    means = {"SELECT": 0.5, "INSERT": 1.0, "UPDATE": 0.0}
    assert task.derived(means) == {**means, "category_mean": 0.5}
    assert task.derived({"SELECT": 0.5}) == {"SELECT": 0.5}


@pytest.mark.mysql
def test_a_server_killed_in_an_evaluation_costs_a_retry(tmp_path: Path) -> None:
    records = [SELECT, INSERT, UPDATE] * 3
    slow = operate("SELECT SLEEP(3)")

    def restart(server: Server) -> None:
        server.wait_for("SELECT SLEEP", len(records))
        server.kill()
        time.sleep(0.5)
        server.start()

    with own_server() as server, ThreadPoolExecutor(1) as threads:
        path = write(tmp_path / "p.jsonl", *records)
        task = DBBench(path, engine=server.url, environments=len(records), statement_seconds=20)
        gold = {p.id: task.gold(p) for split in ("optimisation", "test") for p in task.problems(split)}
        restarted = threads.submit(restart, server)
        first = play(task, {problem: [slow, *replies] for problem, replies in gold.items()})
        restarted.result()
        assert {turn.score for turn in first.values()} == {1.0}
        assert all(turn.retried and not turn.fault for turn in first.values())
        second = play(task, gold)
        assert {(turn.score, turn.retried) for turn in second.values()} == {(1.0, None)}
        task.close()
        assert server.leftovers() == []


# The public data


@pytest.mark.data
@pytest.mark.parametrize(
    ("engine", "mode", "column", "solved"),
    [
        pytest.param("sqlite", "", "sqlite", 119, marks=pytest.mark.sandbox),
        pytest.param("mysql", "", "mariadb_nonstrict", 119, marks=pytest.mark.mysql),
        pytest.param("mysql", "STRICT_TRANS_TABLES", "mariadb_default", 117, marks=pytest.mark.mysql),
    ],
)
@pytest.mark.filterwarnings("ignore:.*the tables of standard-014, standard-017, standard-077:UserWarning")
def test_gold_statements_solve_what_they_should(engine: str, mode: str, column: str, solved: int) -> None:
    if not DATA.exists():
        pytest.skip(f"the public test data is not at {DATA}")
    notes = {row["_meta"]["id"]: row["_meta"] for row in map(json.loads, DATA.open(encoding="utf-8"))}
    task = DBBench(DATA, engine="sqlite://" if engine == "sqlite" else server_url(), sql_mode=mode)
    gold, empty, wrong = check_task(task)
    task.close()
    assert not gold.faults
    assert len(gold.scores) == len(notes) == 181
    changes = [problem for problem, note in notes.items() if note["category"] != "SELECT"]
    expected = {problem for problem in changes if notes[problem]["gold_sql_reproduces_gold"][column] == "match"}
    assert expected <= {problem for problem in changes if gold.scores[problem]}
    assert sum(gold.scores[problem] for problem in changes) == solved
    assert all(gold.scores[problem] for problem in notes.keys() - changes)
    assert not any(empty.scores.values())
    assert not any(wrong.scores.values())
