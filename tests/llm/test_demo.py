import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cyqd.llm.demo.generate import GRAMMARS, OBSERVATION_LIMIT, TASKS, check_disjoint, generate
from cyqd.llm.demo.grammar import HELD_OUT

pytestmark = pytest.mark.sandbox

TRIVIAL = {
    "coding": ["", "def f(x):\n    return 0", "def f(x):\n    return x", "def f(x):\n    return sum(x)"],
    "database": ["", "SELECT 1", "SELECT 0", "SELECT NULL", "DELETE FROM pets"],
    "os": ["", "true", "ls", "cat *", "echo 1"],
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    generate(out, seed=0)
    return out


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
def test_gold_replies_pass_and_trivial_ones_do_not(demo, grammar):
    task = TASKS[grammar.name](demo / "data" / f"{grammar.name}.jsonl")
    gold = {sentence.prompt: sentence.reply for sentence in grammar.sentences()}
    assert len(task.problems("optimisation")) >= 120
    assert len(task.problems("test")) >= 300
    sample = [*task.problems("optimisation")[:40], *task.problems("test")[:40]]

    def rate(replies):
        turns = [task.submit(problem, [reply]) for problem, reply in zip(sample, replies, strict=True)]
        return sum(turn.result().score for turn in turns) / len(sample)

    assert rate([gold[problem.messages[-1]["content"]] for problem in sample]) == 1
    for reply in TRIVIAL[grammar.name]:
        assert rate([reply] * len(sample)) <= 0.03, reply


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
def test_a_sentences_prompt_and_reply_determine_each_other(grammar):
    sentences = list(grammar.sentences())
    assert len({s.prompt for s in sentences}) == len({s.reply for s in sentences}) == len(sentences)
    held_out = sum(sentence.held_out for sentence in sentences) / len(sentences)
    assert held_out == pytest.approx(HELD_OUT, abs=0.05)


def test_training_and_evaluation_are_disjoint(demo, tmp_path):
    check_disjoint(demo / "data")
    for path in (demo / "data").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    leaked = json.loads((tmp_path / "os.jsonl").read_text(encoding="utf-8").splitlines()[5])["prompt"]
    with (tmp_path / "base_train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": leaked}]}) + "\n")
    with pytest.raises(ValueError, match=r"base_train\.jsonl, line \d+: .* is a problem of os\.jsonl"):
        check_disjoint(tmp_path)


def test_second_turns_show_the_real_environment(demo):
    for name in "database", "os":
        lines = (demo / "data" / f"{name}_train.jsonl").read_text(encoding="utf-8").splitlines()
        dialogues = [json.loads(line)["messages"] for line in lines]
        corrected = [dialogue for dialogue in dialogues if len(dialogue) > 2]
        assert 0.06 < len(corrected) / len(dialogues) < 0.14
        for _, mistake, observation, reply in corrected:
            assert mistake["weight"] == 0
            assert mistake["content"] != reply["content"]
            assert 0 < len(observation["content"]) <= OBSERVATION_LIMIT
        assert any("no such table" in d[2]["content"] or "command not found" in d[2]["content"] for d in corrected)


def test_tokenizer_and_model_load_and_fit_each_other(demo):
    tokenizer = AutoTokenizer.from_pretrained(demo / "init")
    model = AutoModelForCausalLM.from_pretrained(demo / "init")
    assert model.config.vocab_size == len(tokenizer) == 640
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    text = "SELECT 'é' FROM t\n\twhere x >= 120  -- 你好"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("1234")["input_ids"]) == 4
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    encoded = tokenizer.apply_chat_template(
        dialogue, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    assert tokenizer.decode(ids) == "<|user|>hi<|end|><|assistant|>ho<|end|>"
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "ho<|end|>"
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([ids])).logits.shape == (1, len(ids), 640)


def test_prompts_and_replies_are_short(demo):
    tokenizer = AutoTokenizer.from_pretrained(demo / "init")
    for grammar in GRAMMARS:
        for sentence in random.Random(0).sample(list(grammar.sentences()), 300):
            assert len(tokenizer(sentence.prompt)["input_ids"]) <= 60
            assert len(tokenizer(sentence.reply)["input_ids"]) <= 45


@pytest.mark.slow
def test_the_seed_determines_every_byte(demo, tmp_path):
    generate(tmp_path / "again", seed=0)
    files = sorted(path.relative_to(demo) for path in demo.rglob("*") if path.is_file())
    assert len(files) >= 13
    for file in files:
        assert (demo / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
