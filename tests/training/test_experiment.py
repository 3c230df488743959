"""An experiment on the toy domain: methods × seeds by one command, resumed, refused, listed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cyqd.__main__ import main
from cyqd.training.batch import BusyError, _claim, run_batch
from cyqd.training.experiment import Preparation, read_experiment, slug
from tests.conftest import ROOT, Domain, environment
from tests.training.test_resume import files, history

RANDOM, TESTED = "random & no_mutation", "only tested"


def write(path: Path, toy: Domain, **changes: Any) -> Path:
    """Write an experiment of one search, which needs a model of its own by seed, and one test of two models."""
    experts = toy.parts["experts"]
    folder = path.parent
    content = {
        "folder": str(folder / "out"),
        "config": str(toy.config(folder / "base", generations=99)),
        "budget": 5,  # three children, and two finalists
        "seeds": [0, 1],
        "options": {"threads": 1, "trainer.accelerator": "cpu", "final.finalists": 2},
        "prepare": [
            {
                "makes": str(folder / "made" / "{seed}" / "task0" / "weights.safetensors"),
                "command": f"zipfile -e {folder}/models.zip {folder}/made/{{seed}}",
            }
        ],
        "methods": {
            RANDOM: {
                "strategy": {"init_args": {"selection": "random", "mutation": "none"}},
                "experts": {**experts, "task0": f"{folder}/made/{{seed}}/task0"},
            },
            TESTED: {"models": {"first": experts["task0"], "second": f"{folder}/late/{{seed}}"}},
        },
    }
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


class Done:
    """An experiment of which one cell failed at the first start, and then started again."""

    def __init__(self, folder: Path, toy: Domain) -> None:
        self.folder = folder
        self.file = write(folder / "toy.yaml", toy)
        shutil.make_archive(str(folder / "models"), "zip", toy.folder, "task0")
        shutil.copytree(toy.parts["experts"]["task1"], folder / "late" / "0")
        self.first = run("experiment", self.file, "--jobs", 2)
        self.first_tables = (folder / "out" / "table.md").read_text()
        shutil.copytree(toy.parts["experts"]["task1"], folder / "late" / "1")
        self.times = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*/*/results.json")}
        self.second = run("experiment", self.file, "--jobs", 2)


class Outcome(NamedTuple):
    code: object
    out: str
    err: str


def run(*arguments: object) -> Outcome:
    """Run a command in this process; only what it starts has processes of its own."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)
        patch.delenv("WANDB_SERVICE", raising=False)
        for name in ("OMP_NUM_THREADS", "PYTHONPATH"):
            patch.setenv(name, environment()[name])
        try:
            main(list(map(str, arguments)))
        except SystemExit as stop:
            code = stop.code
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def done(toy: Domain, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done(tmp_path_factory.mktemp("experiment"), toy)


def test_a_failed_cell_does_not_stop_the_others(done: Done) -> None:
    assert done.first.code == 1
    log = done.folder / "out" / "logs" / f"{slug(TESTED)}-1.log"
    assert f"failed: {TESTED}, seed 1: exit code 2, see {log}" in done.first.err
    assert "late/1" in log.read_text()
    assert len(done.times) == 3
    assert f"Missing: {TESTED}, seed 1." in done.first_tables


def test_a_second_start_runs_what_is_missing_and_nothing_else(done: Done) -> None:
    now = {path: path.stat().st_mtime_ns for path in (done.folder / "out").glob("*/*/results.json")}
    assert done.second.code is None
    assert now.items() > done.times.items()
    assert len(now) == 4
    assert "Missing" not in (done.folder / "out" / "table.md").read_text()
    assert (done.folder / "out" / "table.md").read_text() in done.second.out


def test_a_cell_is_done_once_its_results_are_those_of_its_end(done: Done, tmp_path: Path) -> None:
    cell = dataclasses.replace(read_experiment(done.file).cells()[0], folder=tmp_path / "cell")
    shutil.copytree(done.folder / "out" / slug(RANDOM) / "0", cell.folder)
    state = cell.folder / "evolution" / "state" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "evaluated": 3}))
    assert not cell.done
    shutil.rmtree(state.parent)  # large, and of no use any more
    assert cell.done


def test_the_tables_hold_what_the_runs_say(done: Done) -> None:
    found = json.loads((done.folder / "out" / "results.json").read_text())
    rows = {(row["method"], row["rule"]): row for row in found["rows"]}
    for seed in ("0", "1"):
        run = json.loads((done.folder / "out" / slug(RANDOM) / seed / "results.json").read_text())
        means = {row["model"]: row["mean"]["mean"] for row in run["rows"]}
        for rule in ("aggregate", "gamma", "best_mean", "rescored"):
            assert rows[RANDOM, rule]["scores"][seed] == pytest.approx(means[f"CycleQD {rule}"])
        assert rows[None, "base"]["scores"][seed] == pytest.approx(means["base"])
        difference = rows[TESTED, "first"]["scores"][seed] - rows[RANDOM, "aggregate"]["scores"][seed]
        assert difference == pytest.approx(means["expert task0"] - means["CycleQD aggregate"])
    assert rows[RANDOM, "aggregate"]["children"] == {"0": 3, "1": 3}
    assert rows[RANDOM, "aggregate"]["rescored"] == {"0": 2, "1": 2}
    assert rows[RANDOM, "aggregate"]["seconds"] > 0
    assert rows[TESTED, "second"]["mean"] == rows[None, "expert task1"]["mean"]
    assert rows[TESTED, "first"]["final"]
    assert found["shared"]


def test_any_search_may_be_what_the_others_are_compared_with(toy: Domain, tmp_path: Path) -> None:
    methods = {"first": {}, "second": {}, TESTED: {"models": {"model": str(tmp_path)}}}
    file = write(tmp_path / "toy.yaml", toy, methods=methods)
    assert read_experiment(file).reference == "first"
    assert read_experiment(file, reference="second").reference == "second"
    with pytest.raises(ValueError, match="expected one of first, second, only tested, got 'third'"):
        read_experiment(file, reference="third")


def test_the_command_takes_another_reference(done: Done) -> None:
    outcome = run("experiment", done.file, "--tables", "true", "--reference", TESTED)
    assert outcome.code == 2
    assert f"expected a search, got '{TESTED}'" in outcome.err


def test_a_method_runs_with_its_options(done: Done) -> None:
    config = yaml.safe_load((done.folder / "out" / slug(RANDOM) / "1" / "config.yaml").read_text())
    chosen = {key: config["strategy"]["init_args"][key] for key in ("generations", "selection", "mutation")}
    assert chosen == {"generations": 3, "selection": "random", "mutation": "none"}
    assert config["seed"] == 1
    assert config["experts"]["task0"] == str(done.folder / "made" / "1" / "task0")
    assert config["wandb"]["mode"] == "disabled"


def test_the_list_is_of_commands_that_a_shell_runs(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    main(["experiment", str(done.file), "--list"])
    listed = capsys.readouterr().out.splitlines()
    lines = [shlex.split(line, comments=True) for line in listed]
    models, made = f"{done.folder}/models.zip", f"{done.folder}/made"
    jobs = read_experiment(done.file).cells()
    assert [line for line in lines if line] == [
        *(["python", "-m", "zipfile", "-e", models, f"{made}/{seed}"] for seed in (0, 1)),
        *(["python", "-m", *job.arguments] for job in jobs),
    ]
    assert [line.partition("  # ")[2] for line in listed[-4:]] == [
        f"cell {2 * seed + number}: {method}, seed {seed}"
        for seed in (0, 1)
        for number, method in enumerate([RANDOM, TESTED])
    ]


def test_one_cell_runs_by_its_number(
    done: Done, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(done.file.read_text().replace(f"folder: {done.folder}/out", f"folder: {tmp_path}/out"))
    cyqd("experiment", file, "--cell", 2)
    mine, other = (folder / "out" / slug(RANDOM) / "1" for folder in (tmp_path, done.folder))
    assert list(tmp_path.glob("out/*/*/history.jsonl")) == [mine / "history.jsonl"]
    assert files(mine) == files(other)
    assert [line["scores"] for line in history(mine)] == [line["scores"] for line in history(other)]
    assert "has finished" in run("experiment", file, "--cell", 2).out


def test_a_cell_waits_for_what_it_needs(toy: Domain, tmp_path: Path, refuse: Callable[..., str]) -> None:
    message = refuse("experiment", write(tmp_path / "toy.yaml", toy), "--cell", 2)
    assert f"python -m zipfile -e {tmp_path}/models.zip {tmp_path}/made/1" in message


def test_what_cannot_be_prepared_leaves_out_its_cells(
    toy: Domain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["experiment", str(write(tmp_path / "toy.yaml", toy))])
    assert stop.value.code == 1
    told = capfd.readouterr()
    makes = tmp_path / "made" / "1" / "task0" / "weights.safetensors"
    assert f"failed: preparing {makes}: exit code 1" in told.err
    assert f"not run: {TESTED}, seed 1, since preparing {makes} failed" in told.err
    assert "no cell has finished yet" in told.out


def test_a_changed_experiment_is_refused(done: Done, toy: Domain, refuse: Callable[..., str]) -> None:
    before = done.file.read_text()
    try:
        content = yaml.safe_load(before)
        content["methods"][RANDOM]["strategy"]["init_args"]["mutation"] = "gaussian"
        content["options"]["threads"] = 2
        done.file.write_text(yaml.safe_dump(content, sort_keys=False))
        message = refuse("experiment", done.file)
    finally:
        done.file.write_text(before)
    assert f"{RANDOM}: options.strategy.init_args.mutation was 'none'" in message
    assert "choose another `folder`" in message
    assert "threads" not in message
    assert message.count("now it is") == 1


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"jobs": 3, "seeds": ["a"], "budget": 0}, ["jobs: there is no such option", "seeds.0:", "budget:"]),
        (
            {"reference": "Other", "seeds": [1, 1]},
            ["reference: expected one of", "seeds: expected every"],
        ),
        ({"reference": TESTED}, ["reference: expected a search"]),
        ({"options": {"seed": 1, "run": "x"}}, ["options.seed", "options.run"]),
        ({"methods": {"A b": {}, "a-B": {}, "logs": {}}}, ["methods.a-B: this name", "methods.logs: this name"]),
        ({"methods": {"A": {"models": {}}}}, ["methods.A.models: expected folders by name"]),
        (
            {"methods": {"A": {"strategy.init_args.mutations": 1}, "B": {"finall": 1}}},
            ["A: ", "Option 'mutations' is not accepted", "B: ", "finall"],
        ),
        ({"config": "nowhere.yaml"}, ["nowhere.yaml"]),
    ],
)
def test_everything_wrong_is_named_at_once(
    toy: Domain, tmp_path: Path, refuse: Callable[..., str], changes: dict[str, Any], wanted: list[str]
) -> None:
    message = refuse("experiment", write(tmp_path / "toy.yaml", toy, **changes))
    assert [text for text in wanted if text not in message] == [], message


def test_a_method_without_a_budget_gets_none(toy: Domain, tmp_path: Path) -> None:
    methods = {"average": {"strategy": "cyqd.evolution.TaskVectorAverage"}, "search": {}}
    cells = read_experiment(write(tmp_path / "toy.yaml", toy, methods=methods)).cells()
    assert ["strategy.init_args.generations" in cell.said["options"] for cell in cells[:2]] == [False, True]


def test_options_of_a_method_replace_those_of_all(toy: Domain, tmp_path: Path) -> None:
    options = {"strategy.init_args.w_max": 0.1, "rank": 1}
    methods = {"A": {"rank": 2}, "B": {"strategy": {"init_args": {"bins": 3}}}}
    a, b, *_ = read_experiment(write(tmp_path / "toy.yaml", toy, options=options, methods=methods)).cells()
    assert (a.said["options"]["rank"], a.said["options"]["strategy.init_args.w_max"]) == (2, 0.1)
    assert "strategy.init_args.w_max" not in b.said["options"]


def test_no_command_runs_twice_at_a_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = Preparation("it", "it", None, ("json.tool", "--help"), tmp_path / "made")
    with _claim(job, tmp_path), pytest.raises(BusyError):
        _claim(job, tmp_path)
    with _claim(job, tmp_path):
        assert run_batch([job], tmp_path) == [job]
    assert "another process is running it" in capfd.readouterr().err


def test_a_command_that_does_not_make_its_file_has_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = Preparation("it", "it", None, ("json.tool", "--help"), tmp_path / "made")
    assert run_batch([job], tmp_path) == [job]
    assert "it ended without what it is for" in capfd.readouterr().err


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, 143)])
def test_an_end_from_outside_ends_what_is_running(
    toy: Domain, tmp_path: Path, which: signal.Signals, code: object
) -> None:
    sleeper = """timeit -n1 -r1 'print("be" "gun", flush=True)' 'import time' 'time.sleep(99)'"""
    file = write(tmp_path / "toy.yaml", toy, prepare=[{"makes": str(tmp_path / "made"), "command": sleeper}])
    log = tmp_path / "out" / "logs" / "preparing-0.log"

    def end() -> None:
        while not (log.exists() and "begun" in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), which)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    threading.Thread(target=end, daemon=True).start()
    try:
        assert run("experiment", file).code == code
    finally:
        signal.signal(signal.SIGINT, handler)
    (job,) = read_experiment(file).preparations()[0]
    _claim(job, log.parent).close()  # nobody holds it any more
    assert not job.done
