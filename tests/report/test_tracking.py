"""W&B: what an offline run really stored, read back; and that no evolution depends on it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

from cyqd.__main__ import main
from cyqd.evolution.archive import Archive, Elite
from cyqd.evolution.storage import save_json
from cyqd.report.metrics import generation_metrics, hypervolume
from cyqd.report.record import read_run
from cyqd.report.stored import last_step, run_logs
from cyqd.report.tracked import KNOWN
from cyqd.report.tracking import results_content
from cyqd.training.run import SetupError
from cyqd.training.tracking import RunLogger, Wandb, check_wandb, wandb_logger
from tests.conftest import ROOT, Domain, command, environment
from tests.report.offline import Stored, manifest, read_offline
from tests.report.runs import make_run
from tests.training.test_resume import assert_same_run

TASKS = ["task0", "task1", "task2"]
OFFLINE = ["--wandb.mode", "offline", "--wandb.every", "10"]


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What of a row is a number, and ours."""
    return {k: v for k, v in row.items() if not k.startswith("_") and isinstance(v, int | float)}


def evolve(config: Path, *options: str) -> None:
    """Run the command here; what W&B leaves in a process would be inherited by the next tests' processes."""
    main(["evolve", "--config", str(config), *OFFLINE, *options])
    wandb.teardown()


@pytest.fixture(scope="module")
def tracked(toy: Domain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evolution that W&B and a CSV file follow."""
    run = tmp_path_factory.mktemp("tracked") / "run"
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(run.parent)}}
    evolve(toy.config(run), "--trainer.logger", json.dumps(logger))
    return run


@pytest.fixture(scope="module")
def stored(tracked: Path) -> Stored:
    (only,) = read_offline(tracked)
    return only


def test_every_generation_is_a_row_at_its_step(tracked: Path, stored: Stored) -> None:
    record = read_run(tracked)
    assert [row["_step"] for row in stored.rows] == list(range(25))
    for line in record.evaluations[3:]:
        row = stored.rows[line["generation"]]
        expected = generation_metrics(line, record.archives(line["evaluation"] + 1), record.tasks)
        assert numbers(row).items() >= expected.items()
        assert row["child/task1"] == line["scores"]["task1"]
        assert {"time/breed", "time/materialise", "front/hypervolume", "cost/seconds"} <= row.keys()
    experts = {f"expert/{a}/{b}": record.evaluations[k]["scores"][b] for k, a in enumerate(TASKS) for b in TASKS}
    assert numbers(stored.rows[0]).items() >= experts.items()
    assert not {"child/task0", "cost/seconds"} & stored.rows[0].keys()
    assert all(stored.rows[0][f"expert/{task}/cost/seconds"] > 0 for task in TASKS)
    assert stored.run.project == "cyqd"
    assert stored.run.job_type == "evolve"
    assert stored.config["strategy"]["init_args"]["generations"] == 24


def test_other_loggers_get_the_same_numbers(tracked: Path, stored: Stored) -> None:
    (path,) = tracked.parent.glob("lightning_logs/version_*/metrics.csv")
    rows = {int(row["step"]): row for row in csv.DictReader(path.open())}
    assert sorted(rows) == list(range(25))
    for name in ("child/task0", "archive/task2/qd_score", "front/hypervolume"):
        assert float(rows[17][name]) == stored.rows[17][name]


@pytest.mark.parametrize("generation", [0, 10, 20, 24])
def test_the_archives_can_be_rebuilt_from_the_tables(tracked: Path, stored: Stored, generation: int) -> None:
    record, row = read_run(tracked), stored.rows[generation]
    archives = record.archives(3 + generation)
    for archive in archives:
        others = [task for task in TASKS if task != TASKS[archive.task]]
        cells = {
            tuple(line[f"bin {task}"] for task in others): (line["model"], line["quality"])
            for line in stored.table(row, f"archive/{TASKS[archive.task]}/cells")
        }
        assert cells == {c: (elite.id, archive.quality(elite)) for c, elite in archive.cells.items()}
    elites = stored.table(row, "elites")
    assert len(elites) == sum(map(len, archives))
    for line in elites:
        model = record.evaluations[line["model"]]
        assert (line["archive"], tuple(json.loads(line["cell"]))) in {
            (TASKS[archive.task], cell) for archive in archives for cell in archive.cells
        }
        assert [line[f"score {task}"] for task in TASKS] == list(model["scores"].values())
        assert json.loads(line["parents"]) == model.get("parents", [])
        assert [line[f"share {task}"] for task in TASKS] == list(record.shares[line["model"]])
    assert stored.media(row, "archive/maps").read_bytes().startswith(b"\x89PNG")


def test_between_them_there_are_only_numbers(stored: Stored) -> None:
    assert [row["_step"] for row in stored.rows if "elites" in row] == [0, 10, 20, 24]


def test_the_results_lie_in_the_last_row(tracked: Path, stored: Stored) -> None:
    record, last = read_run(tracked), stored.rows[-1]
    results, similarity = record.results, record.known_similarities["task0+task2"]
    table = {line["model"]: line for line in stored.table(last, "results/table")}
    for row in results["rows"]:
        assert table[row["model"]]["task2 low"] == row["tasks"]["task2"]["low"]
        assert table[row["model"]]["mean"] == row["mean"]["mean"]
    final = table[results["final"]]
    assert stored.summary["results/final/mean"] == final["mean"]
    assert last["similarity/task0+task2"] == similarity
    matrix = {line["expert"]: line for line in stored.table(last, "similarity/matrix")}
    assert matrix["task2"]["task0"] == similarity
    assert matrix["task1"]["task1"] == 1
    points = {(line["pair"], line["merged by"]): line for line in stored.table(last, "similarity/pairs")}
    merged = points["task0+task1", results["final"]]
    assert merged["first"] == pytest.approx(final["task0 mean"] / table["expert task0"]["task0 mean"])
    if (tracked / "report.html").exists():
        assert stored.media(last, "report").stat().st_size >= (tracked / "report.html").stat().st_size


def test_artifacts_lead_back_to_base_and_experts(tracked: Path, stored: Stored, toy: Domain) -> None:
    artifacts = {artifact.name: artifact for artifact in stored.artifacts if artifact.type != "run_table"}
    id = stored.run.run_id
    sources = {"base": toy.folder / "base", **{f"expert-{task}": toy.folder / task for task in TASKS}}
    assert set(artifacts) == {*sources, f"evolution-{id}", f"model-{id}"}
    prints = read_run(tracked).settings["models"].split()
    for (name, folder), weights in zip(sources.items(), prints, strict=True):
        assert artifacts[name].use_after_commit  # an input of the run, not something it made
        assert json.loads(artifacts[name].metadata) == {"path": str(folder), "weights": weights}
        entries = manifest(artifacts[name])
        assert entries["weights/weights.safetensors"].ref == (folder / "weights.safetensors").as_uri()
        assert not entries["weights/weights.safetensors"].local_path  # nothing is copied or uploaded
    kept = manifest(artifacts[f"evolution-{id}"])
    genomes = sorted((tracked / "evolution" / "state" / "genomes").iterdir())
    assert {f"evolution/state/genomes/{path.name}" for path in genomes} < set(kept)
    assert kept["evolution/state/state.json"].local_path == str(tracked / "evolution" / "state" / "state.json")
    made = manifest(artifacts[f"model-{id}"])
    assert made["weights.safetensors"].local_path == str(tracked / "model" / "weights.safetensors")
    assert json.loads(artifacts[f"model-{id}"].metadata)["made_from"]["task1"]["weights"] == prints[2]


def test_nothing_of_it_changes_the_evolution(tracked: Path, reference_run: Path) -> None:
    assert_same_run(tracked, reference_run)
    assert not list(reference_run.glob("*wandb*"))  # the tests' WANDB_MODE disables it


def start(config: Path, *options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("evolve", "--config", config, *OFFLINE, *options),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal can reach all that it started, as Ctrl-C does
    )


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := happened()):
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)
    return found


def wandb_processes(pid: int) -> list[int]:
    """Processes that W&B started for a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if any(b"wandb-core" in word for word in words) and str(pid).encode() in words:
            found.append(int(path.parent.name))
    return found


def test_killed_and_resumed_is_one_gapless_history(toy: Domain, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = toy.config(run)
    with start(config, "--strategy.init_args.generations", 100_000) as process:
        known = run / "wandb.json"
        id = wait_for(lambda: known.exists() and json.loads(known.read_text())["id"], process)
        wait_for(lambda: last_step(run, id) >= 2, process)
        process.kill()
    deadline = time.monotonic() + 20
    while wandb_processes(process.pid):
        assert time.monotonic() < deadline, "W&B's process outlives the run"
        time.sleep(0.05)
    reached = len(read_run(run).evaluations) - 3
    resume = ["--ckpt_path", "last", "--strategy.init_args.generations", str(reached + 3)]
    evolve(config, *resume)
    starts = read_offline(run)
    assert [each.run.run_id for each in starts] == [id, id]
    assert starts[1].rows[0]["_step"] == starts[0].rows[-1]["_step"], "which may have been stored in part"
    rows = starts[0].rows[:-1] + starts[1].rows
    assert [row["_step"] for row in rows] == list(range(reached + 4))
    record = read_run(run)
    for line, row in zip(record.evaluations[3:], rows[1:], strict=True):
        expected = generation_metrics(line, record.archives(line["evaluation"] + 1), record.tasks)
        assert numbers(row).items() >= expected.items()
    assert [row["_step"] for row in rows if "elites" in row] == sorted({*range(0, reached + 4, 10), reached + 3})


def test_a_finished_run_that_w_and_b_missed_is_told_once(toy: Domain, reference_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference_run, run)
    config, resume = toy.config(run), ("--ckpt_path", "last")
    evolve(config, *resume)
    (stored,) = read_offline(run)
    assert [row["_step"] for row in stored.rows] == list(range(25))
    assert "results/table" in stored.rows[24]
    evolve(config, *resume)
    assert len(read_offline(run)) == 1, "W&B has it all"
    known = run / KNOWN
    about = json.loads(known.read_text())
    assert about.pop("finished") == 27
    known.write_text(json.dumps(about))  # as a kill during the test split leaves it
    evolve(config, *resume)
    (_, again) = read_offline(run)
    assert [row["_step"] for row in again.rows] == [24]
    assert "results/table" in again.rows[0]


@pytest.mark.slow
def test_ctrl_c_stores_everything(toy: Domain, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(toy.config(run, generations=100_000)) as process:
        history = run / "history.jsonl"
        wait_for(lambda: history.exists() and len(history.read_bytes().splitlines()) > 6, process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches W&B's process too
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    (stored,) = read_offline(run)
    assert len(stored.rows) == len(read_run(run).evaluations) - 2
    assert "results/table" in stored.rows[-1]
    assert {artifact.type for artifact in stored.artifacts} == {"run_table"}, "files that will change are not kept"
    assert f"wandb sync {stored.files.parent}" in output
    assert "wandb:" not in output + errors  # W&B itself says nothing
    assert not wandb_processes(process.pid)


@pytest.mark.slow
def test_a_failing_w_and_b_does_not_end_an_evolution(toy: Domain, reference_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(toy.config(run)) as process:
        wait_for((run / "evolution" / "state" / "state.json").exists, process)
        for number in wandb_processes(process.pid):
            os.kill(number, signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.count("W&B failed, the run goes on without it") == 1
    assert_same_run(run, reference_run)


@pytest.mark.slow
def test_two_processes_are_one_run(
    cyqd: Callable[..., subprocess.CompletedProcess[str]], toy: Domain, reference_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cyqd("evolve", "--config", toy.config(run), *OFFLINE, "--trainer.devices", 2)
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    (stored,) = read_offline(run)
    assert [row["_step"] for row in stored.rows] == list(range(25))
    assert_same_run(run, reference_run)


def test_every_pair_is_a_run_of_a_group(toy: Domain, tmp_path: Path) -> None:
    run = tmp_path / "run"
    evolve(toy.config(run, generations=2), "--pairs", "true")
    compared = json.loads((run / "pairs.json").read_text())
    for row in compared["pairs"]:
        (pair,) = read_offline(run / "+".join(row["pair"]))
        assert (pair.run.run_group, pair.run.job_type) == ("run", "evolve")
        assert [each["_step"] for each in pair.rows] == [0, 1, 2]
    (whole,) = read_offline(run)
    assert (whole.run.run_group, whole.run.job_type) == ("run", "pairs")
    table = {(line["pair"], line["merged by"]): line for line in whole.table(whole.rows[0], "pairs/table")}
    first = compared["pairs"][0]
    assert table["+".join(first["pair"]), first["final"]]["similarity"] == first["similarity"]
    assert whole.media(whole.rows[0], "pairs/scatter").read_bytes() == (run / "pairs.png").read_bytes()


def test_online_without_a_key_is_refused_without_a_prompt(
    refuse: Callable[..., str], toy: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    config = toy.config(tmp_path / "run")
    message = refuse("evolve", "--config", config, "--wandb.mode", "online")
    assert "wandb.mode: 'online' needs an API key" in message
    assert not (tmp_path / "run").exists()
    assert "wandb.every" in refuse("evolve", "--config", config, "--wandb.every", "0")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert "40+ characters" in refuse("evolve", "--config", config, "--wandb.mode", "online")
    monkeypatch.setenv("WANDB_MODE", "onlin")
    assert "WANDB_MODE: expected one of" in refuse("evolve", "--config", config)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"project": "a/b"}, "Invalid project name 'a/b'"), ({"tags": ["x" * 65]}, "65 characters")],
)
def test_what_w_and_b_would_refuse_is_found_before_any_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        check_wandb(Wandb("offline", **options))
    assert "pydantic" not in str(error.value)


def test_project_and_entity_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Wandb().place() == {"project": "cyqd", "entity": None}
    monkeypatch.setenv("WANDB_PROJECT", "merging")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    assert Wandb().place() == {"project": "merging", "entity": "us"}
    assert Wandb(project="own").place()["project"] == "own"


def logger(folder: Path, **options: Any) -> RunLogger | None:
    return wandb_logger(Wandb("offline"), folder, name="run", job_type="test", config={}, **options)


def test_an_offline_resume_keeps_where_the_run_lies_online(tmp_path: Path) -> None:
    about = {"id": "a1b2c3d4", "project": "p", "entity": "e", "url": "https://wandb.ai/e/p/runs/a1b2c3d4"}
    save_json(tmp_path / KNOWN, about)
    with logger(tmp_path, resume=True) or nullcontext():
        assert json.loads((tmp_path / KNOWN).read_text()) == about
    with logger(tmp_path) or nullcontext():
        assert json.loads((tmp_path / KNOWN).read_text())["id"] != "a1b2c3d4", "a fresh run is another one"
    wandb.teardown()


def test_a_users_own_logger_takes_our_place(tmp_path: Path) -> None:
    assert logger(tmp_path, others=[WandbLogger(save_dir=tmp_path, offline=True)]) is None


def test_a_damaged_record_of_the_run_is_named(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"id": "a"}'):
        (tmp_path / KNOWN).write_text(content)
        with pytest.raises(SetupError, match=r"wandb\.json is"):
            logger(tmp_path, resume=True)


def test_every_start_has_its_log_though_two_fall_into_one_second(tmp_path: Path) -> None:
    starts = ["run-20260101_000000-abc", "offline-run-20260102_000000-abc", "offline-run-20260102_000000-abc-1"]
    for name, id in [*((start, "abc") for start in starts), ("run-20260103_000000-abcd", "abcd")]:
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / f"run-{id}.wandb").touch()
    assert [log.parent.name for log in run_logs(tmp_path, "abc")] == starts


def test_a_damaged_log_is_read_up_to_the_damage(tracked: Path, tmp_path: Path) -> None:
    id = json.loads((tracked / KNOWN).read_text())["id"]
    (log,) = run_logs(tracked, id)
    content = bytearray(log.read_bytes())
    position = content.index(b"child/task0", len(content) // 2)
    content[position] ^= 1
    for name, written in (("offline-run-20260102_000000", content), ("run-20260101_000000", b"")):
        (tmp_path / "wandb" / f"{name}-{id}").mkdir(parents=True)
        (tmp_path / "wandb" / f"{name}-{id}" / log.name).write_bytes(written)
    assert [path.parent.name[:3] for path in run_logs(tmp_path, id)] == ["run", "off"], "oldest first"
    assert 0 < last_step(tmp_path, id) < 24


def test_an_image_that_fails_ends_the_logging_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = RunLogger(object(), tmp_path)
    failing.log_image("picture", [str(tmp_path / "missing.png")])
    failing.log_table("table", ["a"], [[1]])
    failing.log_hyperparams({"lr": 1})
    assert capsys.readouterr().out.count("W&B failed") == 1


def test_a_task_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=2, generations=1)
    for path in [*run.rglob("*.json"), run / "history.jsonl", run / "config.yaml"]:
        path.write_text(path.read_text().replace("task0", "c++"))
    content = results_content(read_run(run))
    assert content["similarity/matrix"].data[0][2] == read_run(run).known_similarities["c+++task1"]


def test_the_hypervolume_is_what_the_elites_dominate() -> None:
    edges = [(0.0, 0.5, 1.0)] * 2
    archives = [Archive(task, edges) for task in (0, 1)]
    for number, scores in enumerate([(0.8, 0.25), (0.5, 0.5), (0.25, 0.75), (0.2, 0.2)]):
        for archive in archives:
            archive.add(Elite(number, scores))
    assert hypervolume(archives) == pytest.approx(0.25 * 0.75 + 0.25 * 0.5 + 0.3 * 0.25)
