import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyqd.llm.environments.containers import docker_client
from cyqd.llm.scripted import check_task, play
from cyqd.llm.tasks import AgentBenchOS, Problem, Turn
from cyqd.llm.tasks.agentbench_os import NO_OUTPUT, OUTPUT, Action, observation, parse, prompt
from cyqd.llm.tasks.live import Session

from .agent_image import agent_image

DATA = Path(__file__).parents[2] / "../shared/data/os_interaction"
# What it counts, the memory that is in use, changes between the answer and the check.
VOLATILE = {"std-007-bootstrap-00018"}

EQUAL = {"language": "python", "code": "from sys import argv\nexit(argv[1].strip() != argv[2].strip())"}
LINES = {
    "description": "How many lines has /tmp/a?",
    "create": {"init": {"code": "n=$((RANDOM % 50 + 10)); for i in $(seq $n); do echo $RANDOM >> /tmp/a; done"}},
    "evaluation": {"check": [None, EQUAL], "example": "wc -l < /tmp/a"},
}
REMOVE = {
    "description": "Remove /tmp/b.",
    "create": {"local": "default", "init": ["touch /tmp/b", "exit 1"]},
    "evaluation": {"check": {"code": "test ! -e /tmp/b"}, "example": {"code": "rm /tmp/b"}},
}
JOB = {
    "description": "How many background jobs are there?",
    "create": [None],
    "start": "cd /tmp; sleep 1000 &",
    "evaluation": {"match": "1"},
    "labels": [],
}


def reply(*acts: str) -> list[str]:
    return [f"Think: hm.\n\nAct: {act}" for act in acts]


def run(command: str) -> str:
    return f"bash\n\n```bash\n{command}\n```"


def write(path: Path, *records: dict) -> Path:
    path.write_text(json.dumps([*records, *records] if len(records) < 2 else records), encoding="utf-8")
    return path


def by_id(task: AgentBenchOS) -> dict[str, Problem]:
    return {problem.id: problem for split in ("optimisation", "test") for problem in task.problems(split)}


# Grammar


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Think: a.\n\nAct: bash\n\n```bash\nls\n```", Action("bash", "ls")),
        ("Act: bash\n```bash\nls\n```\nand\n```bash\ncd /\npwd\n```", Action("bash", "ls\n\ncd /\npwd")),
        ("Act: Bash", Action("bash", "")),
        ("Act: bash\n```sh\nls\n```", Action("bash", "")),
        ("Act: finish", Action("commit", None)),
        ("act: finish", None),
        ("Act: answer(220)", Action("commit", "220")),
        ("Act: answer( a (b) c) .", Action("commit", " a (b) c")),
        ("Act: answer 220", None),
        ("Act: finish\nAct: answer 220", Action("commit", None)),
        ("Act: bash\n```bash\nls\n```\nAct: answer()", Action("commit", "")),
        ("Act:\nfinish", Action("commit", None)),
        ("Act: think", None),
        ("", None),
    ],
)
def test_actions_are_read_as_agentbench_does(text, action):
    assert parse(text) == action


def test_outputs_are_shown_without_control_sequences_and_cut():
    assert observation("a\r\nb\r\n") == OUTPUT + "a\nb"
    assert observation("\x1b[?2004l\r\x1b[01;31ma\x1b[0m\x1b]0;root@os: /\x07\x1b(B\x00\x7f\x1bc") == OUTPUT + "a"
    assert observation(" \r\n") == observation("") == NO_OUTPUT == "The output of the OS is empty."
    assert observation("x" * 800) == OUTPUT + "x" * 800
    assert observation("x" * 801) == OUTPUT + "x" * 780 + "\n[truncated because the output is too long]"


def test_the_prompt_is_one_solved_example():
    assert [message["role"] for message in prompt()] == ["user", "assistant"] * 3 + ["user"]
    assert prompt()[0]["content"].endswith('problem is:\n\ntell me how many files are in the directory "/etc"?')
    assert [parse(message["content"]) for message in prompt()[1::2]] == [
        Action("bash", "ls /etc"),
        Action("bash", "ls -1 /etc | wc -l"),
        Action("commit", "220"),
    ]


# Reading


def test_agentbenchs_folder_is_read_with_its_ids(tmp_path):
    for folder in "data/1", "data/12", "scripts/1/check", "scripts/dev":
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts/1/check/a.py").write_text("exit(0)")
    write(
        tmp_path / "data/1/x.json", {**LINES, "evaluation": {"check": {"language": "python", "file": "check/a.py"}}}
    )
    write(tmp_path / "data/12/y.json", REMOVE, JOB)
    write(tmp_path / "data/dev.json", JOB, LINES)
    write(tmp_path / "data/6-backup.json", JOB)
    problems = by_id(AgentBenchOS(tmp_path, system="Be brief."))
    assert sorted(problems) == [
        "dev-dev-00000", "dev-dev-00001",
        "std-001-x-00000", "std-001-x-00001", "std-012-y-00000", "std-012-y-00001",
    ]  # fmt: skip
    assert problems["std-001-x-00001"].spec["check"] == [{"language": "python", "code": "exit(0)"}]
    assert [s["code"] for s in problems["std-012-y-00000"].spec["init"]] == REMOVE["create"]["init"]
    job = problems["std-012-y-00001"]
    assert job.spec["match"] == {"answer": "1", "strip": True}
    assert job.spec["image"] == "local-os/default"
    assert job.messages[0] == {"role": "system", "content": "Be brief."}
    assert job.messages[-1]["content"].endswith("My problem is:\n\nHow many background jobs are there?")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**LINES, "description": ""}, "problem 0: problem: 'description' must be a str"),
        ({**LINES, "evaluation": {}}, "exactly one of 'match' and 'check'"),
        ({**LINES, "evaluation": {"check": [None]}}, "an 'example' where one of its entries is null"),
        ({**LINES, "evaluation": {"check": []}}, "'check' needs a script"),
        ({**LINES, "evaluation": {"match": {}}}, "'match' must be a text"),
        ({**LINES, "start": {"language": "c++", "code": ""}}, r"one of bash, python, got 'c\+\+'"),
        ({**LINES, "start": 3}, "a script must be"),
        ([], "expected a JSON object, got list"),
    ],
)
def test_a_bad_problem_is_named(tmp_path, record, message):
    with pytest.raises(ValueError, match=message) as error:
        AgentBenchOS(write(tmp_path / "p.json", record, JOB))
    assert str(tmp_path / "p.json") in str(error.value)


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AgentBenchOS(tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError, match="data/os_interaction"):
        AgentBenchOS(tmp_path)
    path = write(tmp_path / "p.json", {**LINES, "start": {"file": "s.sh"}})
    with pytest.raises(FileNotFoundError, match=r"scripts/s\.sh.*'scripts'"):
        AgentBenchOS(path, scripts=tmp_path / "scripts")


def test_arguments_are_checked(tmp_path):
    path = write(tmp_path / "p.json", JOB)
    for options in {"uncommitted": "maybe"}, {"silence_seconds": 0}, {"command_seconds": -1}:
        with pytest.raises(ValueError, match=next(iter(options))):
            AgentBenchOS(path, **options)


# Judging


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentBenchOS]:
    agent_image()
    path = write(tmp_path_factory.mktemp("os") / "p.json", LINES, REMOVE, JOB)
    made = AgentBenchOS(path, warm=1)
    yield made
    made.close()


def judge(task: AgentBenchOS, number: int, *acts: str) -> Turn:
    problem = by_id(task)[f"p-{number:05d}"]
    for count in range(1, len(acts)):
        assert not task.submit(problem, reply(*acts[:count])).result().done
    return task.submit(problem, reply(*acts)).result()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("number", "acts", "score"),
    [
        (0, [run("wc -l /tmp/a"), "answer(5)"], 0),
        (0, ["finish"], 0),
        (0, [run("echo '#!/bin/bash' > /usr/local/bin/wc; echo 'echo 5' >> /usr/local/bin/wc"), "answer(x)"], 0),
        (1, [run("rm /tmp/b"), "finish"], 1),
        (1, [run("rm /tmp/b"), "answer(done)"], 1),
        (1, [run("cd /tmp"), run("rm b"), "finish"], 1),
        (1, ["finish"], 0),
        (1, [run("mv /tmp/b /tmp/c; exit"), "finish"], 1),
        (2, ["answer( 1 )"], 1),
        (2, ["answer(2)"], 0),
        (2, ["finish"], 0),
        (1, ["wonder"], 0),
        (1, [run("rm /tmp/b"), "wonder"], 1),
    ],
)
def test_answers_and_states_are_judged(task, number, acts, score):
    assert judge(task, number, *acts) == Turn(done=True, score=score)


@pytest.mark.docker
def test_gold_solves_and_others_do_not(task):
    checks = {check.kind: check for check in check_task(task)}
    assert {kind: sum(check.scores.values()) for kind, check in checks.items()} == {
        "gold": 3,
        "empty": 0,
        "wrong": 0,
    }
    assert not any(check.faults or check.retries for check in checks.values())


@pytest.mark.docker
def test_the_last_turn_is_judged_only_if_asked(task, tmp_path):
    path = write(tmp_path / "p.json", LINES, REMOVE, JOB)
    for uncommitted, score in ("judge", 1), ("fail", 0):
        short = AgentBenchOS(path, uncommitted=uncommitted, max_turns=1, warm=0)
        assert judge(short, 1, run("rm /tmp/b")) == Turn(done=True, score=score)
        short.close()


@pytest.mark.docker
def test_a_dialogue_that_is_played_again_is_the_same(task, tmp_path):
    look = run("cat /tmp/a; pwd; jobs | wc -l")
    seen = [task.submit(by_id(task)["p-00000"], reply(look)).result().observation for _ in range(2)]
    assert seen[0] == seen[1] != observation("")
    assert judge(task, 2, run("jobs | wc -l; pwd"), run("echo")).observation.startswith("The output")
    forgetful = AgentBenchOS(write(tmp_path / "p.json", LINES, REMOVE, JOB), waiting=0, warm=0)
    problem = by_id(forgetful)["p-00002"]
    acts = [run("cd /; X=5"), run("echo $X; jobs | wc -l")]
    forgetful.submit(problem, reply(acts[0])).result()
    assert forgetful.submit(problem, reply(*acts)).result().observation == OUTPUT + "5\n1"
    forgetful.close()


# The benchmark itself


@pytest.mark.docker
@pytest.mark.data
def test_agentbenchs_examples_solve_its_problems_and_wrong_answers_do_not():
    agent_image()
    if not DATA.is_dir():
        pytest.skip(f"there is no test data at {DATA}")
    task = AgentBenchOS(DATA / "os_bench.jsonl")
    problems = by_id(task)
    assert len(problems) == 86
    gold = play(task, {name: task.gold(problem) for name, problem in problems.items()})
    assert {name for name, turn in gold.items() if turn.score < 1} <= VOLATILE
    wrong = play(task, {name: task.wrong(problem) for name, problem in problems.items()})
    assert [name for name, turn in wrong.items() if turn.score > 0] == []
    operations = [name for name, p in problems.items() if p.spec["check"] and None not in p.spec["check"]]
    idle = play(task, {name: reply("finish") for name in operations})
    assert [turn.score for turn in idle.values()] == [0] * 6
    assert not any(turn.fault for turn in [*gold.values(), *wrong.values(), *idle.values()])
    task.close()


class Killing(AgentBenchOS):
    """Kills the first container of each of its victims when the problem is prepared in it."""

    victims: set[str]

    def open(self, problem: Problem) -> Session:
        session = super().open(problem)
        if problem.id in self.victims:
            self.victims.remove(problem.id)
            docker_client().api.kill(session.container.name)
        return session


@pytest.mark.docker
@pytest.mark.data
def test_examples_solve_agentbenchs_training_problems_though_containers_are_killed():
    agent_image()
    if not DATA.is_dir():
        pytest.skip(f"there is no test data at {DATA}")
    task = Killing(DATA / "os_train_0317.jsonl")
    problems = by_id(task)
    assert len(problems) == 800
    ids = random.Random(0).sample(sorted(problems), 24)
    task.victims = set(ids[::3])
    turns = play(task, {name: task.gold(problems[name]) for name in ids})
    task.close()
    assert [name for name, turn in turns.items() if turn.fault] == []
    assert [name for name, turn in turns.items() if turn.score < 1] == []
    assert {name for name, turn in turns.items() if turn.retried} >= set(ids[::3])
