"""Scripted replies through real tasks, and the commands that build on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cyqd.__main__ import main
from cyqd.llm.scripted import check_task, play
from cyqd.llm.tasks import Coding, Database

pytestmark = pytest.mark.sandbox

GOOD = "def double(x):\n    return 2 * x"


def write(path: Path, count: int, **keys: object) -> Path:
    problem = {"prompt": "Write double(x).", "tests": ["assert double(2) == 4"], "gold": GOOD, **keys}
    path.write_text("".join(json.dumps({"id": f"p{i}", **problem}) + "\n" for i in range(count)))
    return path


def test_scripts_may_answer_what_the_environment_says(tmp_path: Path) -> None:
    record = {"prompt": "How many?", "setup": "CREATE TABLE t (n)", "expected": [["no such column: m"]]}
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": i, **record}) + "\n" for i in "ab"))
    heard = []

    def answer(observation: str) -> str:
        heard.append(observation)
        return f"SELECT '{observation.removeprefix('Error: ')}'"

    turns = play(Database(path), {"b": ["SELECT m FROM t", answer], "a": ["SELECT 1"]})
    assert heard == ["Error: no such column: m"]
    assert {problem: turn.score for problem, turn in turns.items()} == {"b": 1.0, "a": 0.0}
    assert list(turns) == ["b", "a"]


def test_a_check_names_what_is_judged_wrongly(tmp_path: Path) -> None:
    path = write(tmp_path / "problems.jsonl", 3)
    lenient = {"id": "lenient", "prompt": "Anything.", "tests": ["assert True"], "gold": "x = 1"}
    broken = {"id": "broken", "prompt": "?", "tests": ["assert False"], "gold": ["no program", "x = 1"]}
    silent = {"id": "silent", "prompt": "?", "tests": ["assert True"]}
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in (lenient, broken, silent))
    task = Coding(path)
    task.wrong = lambda problem: ["x = 2"]  # type: ignore[method-assign]
    gold, empty, wrong = check_task(task)
    assert [check.kind for check in (gold, empty, wrong)] == ["gold", "empty", "wrong"]
    assert gold.scores == {"p0": 1.0, "p1": 1.0, "p2": 1.0, "lenient": 1.0, "broken": 0.0}
    assert gold.suspicious == ["broken"]
    assert len(empty.scores) == 6
    assert empty.suspicious == []
    assert sorted(wrong.suspicious) == ["lenient", "silent"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of ``evolve`` whose model does not exist."""
    tasks = [
        {
            "class_path": "cyqd.llm.tasks.Coding",
            "init_args": {"problems": str(tmp_path / f"{name}.jsonl"), "name": name},
        }
        for name in ("one", "two")
    ]
    path = tmp_path / "tasks.yaml"
    data = {"class_path": "cyqd.llm.LLMData", "init_args": {"tasks": tasks}}
    path.write_text(yaml.safe_dump({"data": data}))
    return path


def test_check_task_as_a_command(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "one.jsonl", 4)
    write(tmp_path / "two.jsonl", 2)
    main(["check-task", "--config", str(config)])
    table = capsys.readouterr().out
    assert "| one  | gold    | 4/4 " in table
    assert "| two  | wrong   | 2/2 " in table


def test_check_task_lists_broken_problems_for_exclude(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "one.jsonl", 2)
    write(tmp_path / "two.jsonl", 9, gold="def double(x):\n    return 3 * x")
    with pytest.raises(SystemExit) as stop:
        main(["check-task", "--config", str(config), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert "two: gold replies do not solve p" in capsys.readouterr().out
    broken = json.loads((tmp_path / "out" / "broken.json").read_text())
    assert broken["one"] == []
    assert sorted(broken["two"]) == [f"p{i}" for i in range(9)]
    assert {check["kind"] for check in json.loads((tmp_path / "out" / "check.json").read_text())} == {
        "gold", "empty", "wrong",
    }  # fmt: skip

    whole = Coding(tmp_path / "two.jsonl", name="two")
    half = [problem.id for problem in whole.problems("optimisation")]
    (tmp_path / "some.json").write_text(json.dumps({"two": half[:2], "three": ["p0"]}))
    rest = Coding(tmp_path / "two.jsonl", name="two", exclude=[tmp_path / "some.json"])
    assert [problem.id for problem in rest.problems("optimisation")] == half[2:]
    assert rest.problems("test") == whole.problems("test")
    with pytest.raises(ValueError, match="leaves no problem"):
        Coding(tmp_path / "two.jsonl", name="two", exclude=[tmp_path / "out" / "broken.json"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"coding": ["p7"]}', "that task coding lacks"), ("[]", "must hold an object"), ("{", "no valid JSON")],
)
def test_a_bad_list_of_problems_to_exclude(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(ValueError, match=expected):
        Coding(write(tmp_path / "problems.jsonl", 2), exclude=[tmp_path / "list.json"])


def test_a_domain_without_scripted_replies_is_refused(
    toy_config: Callable[..., Path], refuse: Callable[..., str], tmp_path: Path
) -> None:
    assert "ToyData has no tasks" in refuse("check-task", "--config", toy_config(tmp_path / "run"))
