import json
from pathlib import Path
from typing import Any

import pytest

from cyqd.llm.chat import IGNORED, Example, learned_spans, read_conversations, tokenise
from cyqd.llm.data import LengthGroupedSampler, LLMData, collate
from tests.llm.conftest import make_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is  1+2? é"},
    {"role": "assistant", "content": "It is 3 – três ✓."},
    {"role": "user", "content": "And 2+2?"},
    {"role": "assistant", "content": " 4\n"},
]


def write(path: Path, *entries: Any) -> Path:
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries), encoding="utf-8")
    return path


def learned_text(example: Example) -> str:
    tokenizer = make_tokenizer()
    assert ((example.labels == IGNORED) | (example.labels == example.ids)).all()
    return tokenizer.decode([int(t) for t in example.labels if t != IGNORED])


def test_exactly_the_assistants_text_and_its_ends_are_learned() -> None:
    (example,), cut, dropped = tokenise(make_tokenizer(), [TALK], max_length=1000)
    assert learned_text(example) == "It is 3 – três ✓.<|end|> 4\n<|end|>"
    assert (cut, dropped) == (0, 0)


def test_weight_zero_is_not_learned() -> None:
    talk = [*TALK[:2], {**TALK[2], "weight": 0}, *TALK[3:]]
    (example,), _, _ = tokenise(make_tokenizer(), [talk], max_length=1000)
    assert learned_text(example) == " 4\n<|end|>"


def test_the_prompt_of_training_is_the_prompt_of_generation() -> None:
    tokenizer = make_tokenizer()
    (example,), _, _ = tokenise(tokenizer, [TALK], max_length=1000)
    prompt = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert example.ids[: len(ids)].tolist() == ids
    assert example.labels[len(ids)] != IGNORED
    assert (example.labels[: len(ids)] == IGNORED).all()


def test_instruction_format(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        "",
        {"instruction": "Say hi.", "input": "", "output": "hi"},
    )
    first, second = read_conversations(path)
    assert first == [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]
    assert second[0]["content"] == "Say hi."


def test_a_template_without_end_tokens_learns_its_separator() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    text, spans = learned_spans(tokenizer, TALK[1:3])
    assert [text[span] for span in spans] == ["It is 3 – três ✓.\n"]


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ loop.revindex ~ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="renders the first 3 messages differently when more follow"):
        tokenise(tokenizer, [TALK], max_length=100)


def test_too_long_conversations_are_cut_behind_a_whole_reply_or_dropped() -> None:
    tokenizer = make_tokenizer()
    (whole,), _, _ = tokenise(tokenizer, [TALK], max_length=1000)
    (short,), cut, dropped = tokenise(tokenizer, [TALK], max_length=len(whole.ids) - 2)
    assert (cut, dropped) == (1, 0)
    assert learned_text(short) == "It is 3 – três ✓.<|end|>"
    assert short.labels[-1] == tokenizer.eos_token_id
    assert tokenise(tokenizer, [TALK], max_length=12) == ([], 0, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2: Expecting property name"),
        ("[1]", "line 2: expected a JSON object, got list"),
        ({"text": "x"}, r"line 2: expected \"messages\", or \"instruction\" and \"output\", got"),
        ({"messages": "x"}, 'line 2: "messages" must be a list'),
        ({"messages": [{"role": "bot", "content": "x"}]}, 'line 2: message 0 needs a "role" out of system, user'),
        ({"messages": [{"role": "user", "content": 3}]}, 'line 2: message 0 needs a "content" that is a text'),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2: no assistant message to learn from"),
        ({"messages": [{**TALK[2], "weight": 0.5}]}, 'line 2: "weight" of message 0 must be 0 or 1'),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", {"messages": TALK}, line)
    with pytest.raises(ValueError, match=rf"bad\.jsonl, {message}"):
        read_conversations(path)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl not found"):
        read_conversations(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no conversation"):
        read_conversations(write(tmp_path / "empty.jsonl", "\n"))
    with pytest.raises(ValueError, match=r"data\.train is empty"):
        LLMData().setup("fit")


def test_collate_pads_on_the_right() -> None:
    examples, _, _ = tokenise(make_tokenizer(), [TALK, TALK[1:3]], max_length=1000)
    batch = collate(examples)
    n = len(examples[1].ids)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, len(examples[0].ids))
    assert batch["attention_mask"].sum(1).tolist() == [len(e.ids) for e in examples]
    assert (batch["labels"][1, n:] == IGNORED).all()
    assert batch["input_ids"][1, :n].tolist() == examples[1].ids.tolist()


LENGTHS = [(7 * i * i) % 101 + 1 for i in range(205)]


def order(*, epoch: int = 0, rank: int = 0, processes: int = 1) -> list[int]:
    sampler = LengthGroupedSampler(LENGTHS, batch_size=8, seed=3, rank=rank, processes=processes)
    sampler.set_epoch(epoch)
    assert len(list(sampler)) == len(sampler)
    return list(sampler)


def test_length_grouping_is_a_permutation_that_changes_by_epoch() -> None:
    assert sorted(order()) == list(range(205))
    assert sorted(order(epoch=1)) == list(range(205))
    assert order() != order(epoch=1)
    assert order(epoch=1) == order(epoch=1)


def test_length_grouping_groups_lengths() -> None:
    def padding(indices: list[int]) -> int:
        batches = [[LENGTHS[i] for i in indices[k : k + 8]] for k in range(0, len(indices), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(order()) < padding(list(range(205))) / 5


def test_length_grouping_over_processes() -> None:
    parts = [order(rank=rank, processes=3) for rank in range(3)]
    assert {len(part) for part in parts} == {69}
    assert set().union(*parts) == set(range(205))
    spread = [abs(LENGTHS[a] - LENGTHS[b]) for a, b, _ in zip(*parts, strict=True)]
    assert max(spread[:64]) <= 10, "processes work on batches of the same length at the same time"
