import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from cyqd.evolution.weights import SINGLE
from cyqd.llm import LLMModule
from cyqd.llm.dialogue import Dialogue
from cyqd.llm.tasks import Coding
from cyqd.llm.weights import FolderWeights, check_compatible, load_tokenizer
from tests.llm.conftest import make_llama


def module(folder: Path) -> LLMModule:
    return LLMModule(folder, max_new_tokens=8)


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_names_and_values_are_the_live_parameters(base: Path) -> None:
    llm = module(base)
    weights = llm.read_weights(base)
    live = llm.evolved_parameters()
    assert list(weights) == list(live)
    assert len(weights) == len(live) == 21
    assert all(torch.equal(weights[name], p) for name, p in live.items())
    assert "lm_head.weight" in weights
    assert "lm_head" not in weights


def test_shards(base: Path, tmp_path: Path) -> None:
    llm = module(base)
    llm.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shutil.copy(base / "tokenizer.json", tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    weights = llm.read_weights(tmp_path / "shards")
    assert all(torch.equal(weights[name], p) for name, p in llm.evolved_parameters().items())
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names model-00002.*, which is not there"):
        llm.read_weights(tmp_path / "shards")


def test_tied_weights_stored_once_twice_or_under_the_other_name(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "tied", tie=True)
    llm = module(base)
    stored = load_file(base / SINGLE)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    assert head not in stored
    assert list(llm.read_weights(base)) == list(llm.evolved_parameters())
    save_file({**stored, head: stored[embedding].clone()}, base / SINGLE, metadata={"format": "pt"})
    assert head not in llm.read_weights(base)
    other = {head if name == embedding else name: t for name, t in stored.items()}
    save_file(other, base / SINGLE, metadata={"format": "pt"})
    assert torch.equal(llm.read_weights(base)[embedding], stored[embedding])
    save_file({**stored, head: stored[embedding] + 1}, base / SINGLE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head\.weight and model\.embed_tokens\.weight differ"):
        llm.read_weights(base)


def test_renamed_tensors_are_refused(base: Path, copy: Path) -> None:
    stored = load_file(copy / SINGLE)
    renamed = {name.replace("model.", "language_model."): t for name, t in stored.items()}
    save_file(renamed, copy / SINGLE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"20 missing .* 20 unknown .*language_model"):
        module(base).read_weights(copy)


def test_only_the_language_model_of_a_vision_language_model_evolves(base: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig.from_pretrained(base)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=16,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=text.vocab_size - 1)
    model = LlavaForConditionalGeneration(config)
    load_tokenizer(base).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)  # transformers 5 renames these tensors as it saves
    with pytest.raises(ValueError, match="save_original_format=False"):
        module(tmp_path).read_weights(tmp_path)
    model.save_pretrained(tmp_path, save_original_format=False)
    llm = module(tmp_path).eval()
    evolved = llm.evolved_parameters()
    assert evolved
    assert all(name.startswith("model.language_model.") for name in evolved)
    llm.save_model(tmp_path / "again", "card")
    weights = llm.read_weights(tmp_path / "again")
    assert all(torch.equal(weights[name], p) for name, p in evolved.items())
    problems = [{"id": str(i), "prompt": "hello", "tests": ["assert True"]} for i in range(2)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    task = Coding(tmp_path / "problems.jsonl")
    problem = task.problems("test")[0]
    assert isinstance(llm.reply(task, [Dialogue(problem, 0, list(problem.messages))])[0], str)


def test_pickled_weights_are_refused_with_a_remedy(base: Path, copy: Path) -> None:
    (copy / SINGLE).rename(copy / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"\.bin weights.*Convert them: python -c"):
        module(copy)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or model\.safetensors\.index\.json"):
        module(base).read_weights(copy)


def test_a_truncated_file_is_named(copy: Path) -> None:
    data = (copy / SINGLE).read_bytes()
    (copy / SINGLE).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or incomplete"):
        FolderWeights(copy)


def test_missing_folder_config_tokenizer_and_chat_template(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model folder .*nowhere not found"):
        module(tmp_path / "nowhere")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        module(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        module(copy)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        module(copy)


def test_compatible_models(base: Path, copy: Path) -> None:
    edit(copy / "config.json", transformers_version="4.0.0", use_cache=False)
    check_compatible(base, copy)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"hidden_size": 64}, r"config\.json: hidden_size is 64, but 32"),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
            "rope_theta is 5.0",
        ),
        ("config.json", {"num_key_value_heads": 4}, "num_key_value_heads is 4, but 2"),
        ("tokenizer_config.json", {"eos_token": "<|user|>"}, "special tokens"),
        ("chat_template.jinja", "{{ messages }}", "chat template"),
    ],
)
def test_what_weights_alone_do_not_show(
    base: Path, copy: Path, file: str, change: dict[str, object] | str, message: str
) -> None:
    if isinstance(change, str):
        (copy / file).write_text(change)
    else:
        edit(copy / file, **change)
    with pytest.raises(ValueError, match=message):
        check_compatible(base, copy)


def test_other_vocabulary(base: Path, copy: Path) -> None:
    tokenizer = load_tokenizer(copy)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(ValueError, match=r"vocabulary \(\d+ tokens, the base's has \d+; e\.g\. \['extra'\]\)"):
        check_compatible(base, copy)


def test_other_merges(base: Path, copy: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"differs from that in .*: model \("):
        check_compatible(base, copy)


def test_saving_in_the_dtype_of_the_base(copy: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(copy, dtype=torch.bfloat16).save_pretrained(copy)
    llm = LLMModule(copy, dtype="float32", max_new_tokens=8)
    assert next(llm.model.parameters()).dtype == torch.float32
    llm.save_model(tmp_path / "saved", "card")
    assert {t.dtype for t in load_file(tmp_path / "saved" / SINGLE).values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16
    assert (tmp_path / "saved" / SINGLE).read_bytes() == (copy / SINGLE).read_bytes()
