import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cyqd.llm.generation import _buckets, generate

NEW = 24


@pytest.fixture(scope="module")
def model(base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base).eval()


def one_by_one(model: PreTrainedModel, prompts: list[list[int]], eos: int) -> list[list[int]]:
    replies = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )
        replies.append(out[0, len(prompt) :].tolist())
    return replies


def prompts_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(5, 250) for _ in range(n)] for n in lengths]


def common_token(model: PreTrainedModel, prompts: list[list[int]]) -> int:
    """A token that many replies hold somewhere, so that it ends them at different lengths."""
    replies = one_by_one(model, prompts, eos=-1)
    return max(range(300), key=lambda t: sum(t in reply[2:-2] for reply in replies))


def test_equals_transformers_token_for_token(model: PreTrainedModel) -> None:
    prompts = prompts_of([1, 2, 3, 5, 8, 13, 21, 34, 34, 40, 7, 19])
    eos = common_token(model, prompts)
    expected = one_by_one(model, prompts, eos)
    assert len({len(reply) for reply in expected}) > 2, "replies should end at different lengths"
    got = generate(model, prompts, max_new_tokens=NEW, eos_ids={eos}, pad_id=0)
    assert got == expected


def test_draws_follow_the_models_distribution(model: PreTrainedModel) -> None:
    prompt, count, temperature = prompts_of([7])[0], 4000, 0.7
    drawn = generate(
        model,
        [prompt] * count,
        max_new_tokens=1,
        eos_ids={4},
        pad_id=0,
        temperature=temperature,
        seeds=range(count),
    )
    with torch.inference_mode():
        wanted = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(dim=-1)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=len(wanted))
    spread = (count * wanted * (1 - wanted)).sqrt()
    assert ((counts - count * wanted).abs() <= 5 * spread + 1).all()
    cold = generate(model, [prompt], max_new_tokens=NEW, eos_ids={4}, pad_id=0, temperature=1e-6, seeds=[0])
    assert cold == one_by_one(model, [prompt], 4)


@pytest.mark.parametrize("lengths", [[0, 1, 30, 12, 12], [0, 0], [3]])
def test_common_beginning_changes_nothing(model: PreTrainedModel, lengths: list[int]) -> None:
    system = prompts_of([20], seed=1)[0]
    prompts = [system + rest for rest in prompts_of(lengths, seed=2)]
    got = generate(model, prompts, max_new_tokens=NEW, eos_ids={4}, pad_id=0)
    assert got == one_by_one(model, prompts, 4)


def test_very_different_lengths_are_decoded_apart(model: PreTrainedModel) -> None:
    prompts = prompts_of([300, 10, 290, 12, 160])
    assert _buckets([len(p) for p in prompts]) == [[0, 2, 4], [3, 1]]
    got = generate(model, prompts, max_new_tokens=NEW, eos_ids={4}, pad_id=0)
    assert got == one_by_one(model, prompts, 4)


def test_sliding_window(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.3,
    )  # fmt: skip
    mistral = MistralForCausalLM(config).eval()
    prompts = [[7] * 9 + rest for rest in prompts_of([12, 3, 20])]
    got = generate(mistral, prompts, max_new_tokens=NEW, eos_ids={4}, pad_id=0)
    assert got == one_by_one(mistral, prompts, 4)


def test_end_tokens(model: PreTrainedModel) -> None:
    prompts = prompts_of([9, 4])
    free = generate(model, prompts, max_new_tokens=NEW, eos_ids={299}, pad_id=0)
    first, third = free[0][0], free[1][2]
    ended = generate(model, prompts, max_new_tokens=NEW, eos_ids={first, third}, pad_id=0)
    assert ended[0] == [first]
    assert ended[1][-1] in {first, third}
    assert len(ended[1]) <= 3
    assert ended[1] == free[1][: len(ended[1])]


def test_uses_the_weights_of_the_moment(model: PreTrainedModel) -> None:
    prompts = prompts_of([9, 4])
    before = generate(model, prompts, max_new_tokens=4, eos_ids={299}, pad_id=0)
    weight = model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(kept.roll(1, dims=0))  # every token is named one further on
    first = [reply[0] for reply in generate(model, prompts, max_new_tokens=4, eos_ids={299}, pad_id=0)]
    with torch.no_grad():
        weight.copy_(kept)
    assert first == [reply[0] + 1 for reply in before]
    assert generate(model, prompts, max_new_tokens=4, eos_ids={299}, pad_id=0) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    prompts = prompts_of([5, 9, 30])
    expected = generate(model, prompts, max_new_tokens=NEW, eos_ids={4}, pad_id=0)
    assert generate(model.cuda(), prompts, max_new_tokens=NEW, eos_ids={4}, pad_id=0) == expected
