"""Exported models are the run's own, bit for bit, and load with their ecosystem's own code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from segment_anything import sam_model_registry
from transformers import AutoModelForCausalLM, AutoTokenizer

from cyqd.__main__ import main
from cyqd.evolution.storage import load_json
from cyqd.llm import LLMModule
from cyqd.report.record import read_run
from cyqd.sam import SAMModule, weights
from cyqd.sam.architecture import build
from tests.conftest import Domain
from tests.llm.conftest import make_llama
from tests.report.hub import serve_hub
from tests.toy import FILE, ToyModule
from tests.training.bred import breed

Refuse = Callable[..., str]


def export(*arguments: object) -> None:
    main(["export", *map(str, arguments)])


@pytest.fixture
def run(reference_run: Path, tmp_path: Path) -> Path:
    """A copy of a toy run, to be changed."""
    return Path(shutil.copytree(reference_run, tmp_path / "run"))


def test_exports_score_what_the_run_said(toy: Domain, reference_run: Path, tmp_path: Path) -> None:
    elite, final = tmp_path / "elite", tmp_path / "final"
    export(reference_run, "--elite", "task1:best", "--out", elite)
    export(reference_run, "--aggregate", "--out", final)
    assert (final / FILE).read_bytes() == (reference_run / "model" / FILE).read_bytes()
    config = toy.config(tmp_path / "again")
    for split in ("test", "optimisation"):
        options = ["--models", str(final), str(elite), "--out", str(tmp_path / split), "--split", split]
        main(["test", "--config", str(config), *options])
    rows = {
        (row["model"], split): row["tasks"]
        for split in ("test", "optimisation")
        for row in load_json(tmp_path / split / "results.json")["rows"]
    }
    said = {row["model"]: row["tasks"] for row in load_json(reference_run / "results.json")["rows"]}
    assert rows[str(final), "test"] == said["CycleQD aggregate"]
    record = read_run(reference_run)
    best = max(record.archives()[1], key=lambda model: (model.scores[1], model.id))
    scores = {task: cell["mean"] for task, cell in rows[str(elite), "optimisation"].items()}
    assert scores == dict(zip(record.tasks, best.scores, strict=True))


def test_every_way_to_name_a_model_finds_it(reference_run: Path, tmp_path: Path) -> None:
    record = read_run(reference_run)
    archive = record.archives()[2]
    cell, elite = max(archive.cells.items(), key=lambda item: item[1].id)
    export(reference_run, "--cell", f"task2:{','.join(map(str, cell))}", "--out", tmp_path / "cell")
    export(reference_run, "--elite", elite.id, "--out", tmp_path / "id")
    assert (tmp_path / "cell" / FILE).read_bytes() == (tmp_path / "id" / FILE).read_bytes()
    recipe = load_json(tmp_path / "cell" / "merge_recipe.json")
    assert recipe["parts"][0]["evaluation"] == elite.id
    assert recipe["parts"][0]["cells"]["task2"] == list(cell)
    assert [expert["share"] for expert in recipe["experts"].values()] == list(record.shares[elite.id])
    assert [line["evaluation"] for line in recipe["lineage"]] == record.ancestors(elite.id)
    export(reference_run, "--elite", record.experts["task1"], "--out", tmp_path / "expert")
    expert = record.config["experts"]["task1"]
    assert (tmp_path / "expert" / FILE).read_bytes() == (Path(expert) / FILE).read_bytes()
    export(reference_run, "--elite", "task0:gamma", "--out", tmp_path / "gamma")
    assert load_json(tmp_path / "gamma" / "merge_recipe.json")["model"] == "task0:gamma"


def test_the_card_of_a_final_model_has_the_results_table(reference_run: Path, tmp_path: Path) -> None:
    export(reference_run, "--aggregate", "--rule", "gamma", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert (reference_run / "results.md").read_text().strip() in card
    row = next(r for r in load_json(reference_run / "results.json")["rows"] if r["model"] == "CycleQD gamma")
    said = {result.dataset_type: result.metric_value for result in ModelCard(card).data.eval_results}
    assert said == {task: cell["mean"] for task, cell in row["tasks"].items()}
    recipe = load_json(tmp_path / "out" / "merge_recipe.json")
    assert [part["weight"] for part in recipe["parts"]] == pytest.approx([1 / 3] * 3, abs=0.1)
    assert sum(expert["share"] for expert in recipe["experts"].values()) == pytest.approx(1)


def test_a_run_that_goes_on_has_a_final_model_but_no_results_yet(run: Path, tmp_path: Path) -> None:
    with (run / "history.jsonl").open("a") as file:
        file.write('{"evaluation": ')  # a line that is being written
    (run / "results.json").unlink()
    export(run, "--aggregate", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Results" not in card
    assert ModelCard(card).data.eval_results is None
    assert (tmp_path / "out" / FILE).read_bytes() == (run / "model" / FILE).read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "exactly one of --elite, --cell and --aggregate, got none"),
        (["--aggregate", "--elite", "0"], "got elite aggregate"),
        (["--elite", "0", "--rule", "gamma"], "only --aggregate takes a rule"),
        (["--elite", "task9:best"], "no task 'task9'; there are task0, task1, task2"),
        (["--elite", "task1:worst"], "expected task1:best or task1:gamma, got 'task1:worst'"),
        (["--elite", "task1"], "expected TASK:best, TASK:gamma (tasks: task0, task1, task2) or a number"),
        (["--elite", "9999"], "evaluation 9999 is not held; experts and elites are: 0, 1, 2"),
        (["--cell", "task1:99,99"], "of 15 × 15 cells (bins of task0, task2, from 0); filled are, best first: "),
        (["--cell", "task1:3"], "expected one bin for each of task0, task2, as in task1:3,7, got 'task1:3'"),
        (["--aggregate", "--rule", "mean"], "rule: expected one of aggregate, gamma, best_mean, got mean"),
        (["--aggregate", "--push", "somebody"], "push: expected OWNER/NAME, got 'somebody'"),
        (["--aggregate", "--private"], "private: only --push creates a repository"),
    ],
)
def test_what_there_is_not_is_refused_and_nothing_written(
    refuse: Refuse, reference_run: Path, tmp_path: Path, options: list[str], expected: str
) -> None:
    message = refuse("export", reference_run, *options, "--out", tmp_path / "out")
    assert expected in message
    assert "help: python -m cyqd export --help" in message
    assert not (tmp_path / "out").exists()


def test_a_strategy_without_archives_has_a_final_model(refuse: Refuse, toy: Domain, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = toy.config(run)
    text = yaml.safe_load(config.read_text())
    text["strategy"] = {"class_path": "cyqd.evolution.TaskVectorAverage"}
    config.write_text(yaml.safe_dump(text))
    main(["evolve", "--config", str(config)])
    export(run, "--aggregate", "--out", tmp_path / "out")
    assert (tmp_path / "out" / FILE).read_bytes() == (run / "model" / FILE).read_bytes()
    recipe = load_json(tmp_path / "out" / "merge_recipe.json")
    assert [expert["share"] for expert in recipe["experts"].values()] == [1 / 3] * 3
    message = refuse("export", run, "--elite", "task0:best", "--out", tmp_path / "no")
    assert "TaskVectorAverage keeps none; --aggregate takes what the run came to" in message


def test_a_folder_in_use_is_not_written_to(refuse: Refuse, reference_run: Path) -> None:
    message = refuse("export", reference_run, "--aggregate", "--out", reference_run / "model")
    assert "model is not empty" in message


def test_other_weights_than_the_runs_are_refused(refuse: Refuse, run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["experts"]["task1"] = config["experts"]["task2"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    message = refuse("export", run, "--aggregate", "--out", tmp_path / "out")
    assert f"experts.task1: the weights in {config['experts']['task2']} are no longer those that {run}" in message


@pytest.mark.parametrize("key", ["model", "experts"])
def test_a_path_that_no_longer_holds_is_named(refuse: Refuse, run: Path, tmp_path: Path, key: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (config["model"]["init_args"] if key == "model" else config["experts"]).update(base="gone", task1="gone")
    config["model"]["init_args"].pop("task1", None)
    config["experts"].pop("base", None)
    config["run"] = "runs/run"
    moved = tmp_path / "runs" / "run"
    shutil.copytree(run, moved)
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    message = refuse("export", moved, "--aggregate", "--out", tmp_path / "out")
    assert {"model": "in gone", "experts": "experts.task1: there is no model at gone"}[key] in message
    assert f"{moved / 'config.yaml'} names it" in message
    assert f"where `evolve` ran, {tmp_path}: run this command there" in message


def test_a_folder_of_pairs_names_its_runs(refuse: Refuse, run: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    run.rename(pairs / "a+b")
    message = refuse("export", pairs, "--aggregate", "--out", tmp_path / "out")
    assert "it holds the runs a+b: name one of them" in message


def test_a_llama_loads_with_from_pretrained_and_is_the_genome(refuse: Refuse, tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base", tie=True)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: tiny\nlicense_link: LICENSE\n---\n")
    (base / "LICENSE").write_text("Do as you like.")
    experts = {}
    for seed, task in enumerate(("a", "b")):
        experts[task] = Path(shutil.copytree(base, tmp_path / task))
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(experts[task])
    pair = tmp_path / "pairs" / "a+b"  # its singular bases lie beside the folder of all pairs
    options = {"base": str(base), "max_new_tokens": 8}
    search = breed(pair, LLMModule, options, experts, tmp_path / ".singular_bases", generations=3)
    newest = max(search.kept())
    assert newest >= 2, "a child is to be exported"
    export(pair, "--elite", newest, "--base_model", "someone/tiny-llama", "--out", tmp_path / "out")
    assert not list(tmp_path.glob("pairs/.*"))

    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    for file in (file for file in (tmp_path / "out").iterdir() if file.suffix in (".json", ".md")):
        assert str(tmp_path) not in file.read_text(), f"{file.name} may be pushed"
    recipe = load_json(tmp_path / "out" / "merge_recipe.json")
    assert [expert["model"] for expert in recipe["experts"].values()] == ["a", "b"]
    assert (recipe["evaluations"], recipe["budget"]) == (5, 5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "in 5 of 5 evaluations" in card
    assert "Σ (α_k τ_k + U_k diag(ω_k ∘ σ_k) V_kᵀ)" in card
    assert "expected the bin of b, as in a:3, got" in refuse("export", pair, "--cell", "a:1,2", "--out", "no")
    genome = search.store.load(newest)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, genome.weight(name).to(torch.bfloat16)), name
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert (tmp_path / "out" / "generation_config.json").exists()
    front = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert {key: front[key] for key in front if key not in ("tags", "model-index")} == {
        "base_model": "someone/tiny-llama",
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "tiny",
        "license_link": "LICENSE",
    }
    assert (tmp_path / "out" / "LICENSE").read_text() == "Do as you like."


def test_the_formula_is_that_of_the_mutation(toy: Domain, tmp_path: Path) -> None:
    experts = {task: Path(path) for task, path in toy.parts["experts"].items()}
    options = toy.parts["model"]["init_args"]
    formulas = {
        "none": "Σ α_k τ_k, where",
        "lognormal": "Σ α_k τ_k, where",
        "gaussian": "to which mutation then added noise",
    }
    for mutation, formula in formulas.items():
        run, out = tmp_path / mutation, tmp_path / f"{mutation}-out"
        search = breed(run, ToyModule, options, experts, tmp_path, generations=3, mutation=mutation)
        export(run, "--elite", max(search.kept()), "--out", out)
        assert formula in (out / "README.md").read_text()


@pytest.mark.parametrize("architecture", ["tiny", pytest.param("vit_b", marks=pytest.mark.slow)])
def test_a_sam_loads_with_metas_code_and_is_the_genome(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    changed = "image_encoder.neck.0.weight"
    state = {name: tensor.bfloat16() for name, tensor in build(architecture).state_dict().items()}
    models = {name: tmp_path / name for name in ("base", "a", "b")}
    for number, folder in enumerate(models.values()):
        weights.save(folder, {**state, changed: state[changed] + number}, architecture, "")
    experts, options = {task: models[task] for task in ("a", "b")}, {"base": str(models["base"])}
    search = breed(tmp_path / "run", SAMModule, options, experts, tmp_path, generations=2, mutation="none")
    export(tmp_path / "run", "--aggregate", "--out", tmp_path / "out")

    checkpoint = tmp_path / "out" / "model.pth"
    if architecture in sam_model_registry:
        sam = sam_model_registry[architecture](checkpoint=str(checkpoint))
    else:
        sam = build(architecture)
        sam.load_state_dict(torch.load(checkpoint, weights_only=True))
    genome = search.result()["aggregate"]
    for name, parameter in sam.named_parameters():
        assert torch.equal(parameter, genome.weight(name).bfloat16().float()), name
    assert not torch.equal(sam.state_dict()[changed], state[changed].float())
    known = architecture in sam_model_registry
    assert (f'sam_model_registry["{architecture}"]' in (tmp_path / "out" / "README.md").read_text()) == known


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # between the hub's client and httpx
def test_a_pushed_model_arrives_whole(
    reference_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serve_hub(user="ada") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server has no such storage
        export(reference_run, "--aggregate", "--out", out, "--push", "ada/merged", "--private")
    assert f"pushed: {hub.address}/ada/merged" in capsys.readouterr().out
    assert hub.created == [("ada/merged", True)]
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    assert hub.repositories["ada/merged"] == written
    assert {"README.md", "merge_recipe.json", FILE} <= set(written)


@pytest.mark.parametrize("search", ["CycleQD", "CMAES"])
def test_a_run_of_orthogonal_task_vectors_is_exported(toy: Domain, tmp_path: Path, search: str) -> None:
    run = tmp_path / "run"
    config = toy.config(run)
    text = yaml.safe_load(config.read_text())
    options = {"generations": 6, "task_vectors": "orthogonal"}
    text["strategy"] = {"class_path": f"cyqd.evolution.{search}", "init_args": options}
    config.write_text(yaml.safe_dump(text))
    main(["evolve", "--config", str(config)])
    export(run, "--aggregate", "--out", tmp_path / "out")
    assert (tmp_path / "out" / FILE).read_bytes() == (run / "model" / FILE).read_bytes()
    experts = load_json(tmp_path / "out" / "merge_recipe.json")["experts"].values()
    assert all({"share", "orthogonal_share"} <= expert.keys() for expert in experts)
    assert "α′_k τ′_k" in (tmp_path / "out" / "README.md").read_text()
    if search == "CMAES":
        assert all(expert["share"] == 0 for expert in experts)
        return
    record = read_run(run)
    archive = record.archives()[1]
    cell, elite = max(archive.cells.items(), key=lambda item: item[1].id)
    assert elite.id > 2  # a child
    export(run, "--cell", f"task1:{','.join(map(str, cell))}", "--out", tmp_path / "cell")
    options = ["--models", str(tmp_path / "cell"), "--out", str(tmp_path / "again"), "--split", "optimisation"]
    main(["test", "--config", str(config), *options])
    row = load_json(tmp_path / "again" / "results.json")["rows"]
    found = next(each["tasks"] for each in row if each["model"] == str(tmp_path / "cell"))
    assert [found[task]["mean"] for task in record.tasks] == list(elite.scores)
