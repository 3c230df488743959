"""Compare ways to generate greedily for many prompts at once on the live model.

    python benchmarks/generation.py [--threads 2] [--device cpu] [--repeats 5]

Prints milliseconds for 120 prompts of 30–60 tokens with at most 40 new tokens each (wall time and CPU time of the
repeat with the least CPU time, routes in turn), the ratio of CPU times to transformers' ``generate``, and how many
of the first 30 replies equal those that ``generate`` gives prompt by prompt.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from cyqd.llm.generation import generate

EOS, PAD, NEW = 1, 0, 40
SIZES = {"2 layers, hidden 192": (2, 192, 6, 2, 512), "12 layers, hidden 512": (12, 512, 8, 4, 1376)}
Replies = list[list[int]]


def make_model(layers: int, hidden: int, heads: int, kv_heads: int, mlp: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=640,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        initializer_range=0.1,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # replies of a trained model end; let about one token in 25 be the end
        model.lm_head.weight[EOS] *= 1.6
    return model


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


def padded(model: LlamaForCausalLM, prompts: Replies) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def transformers_generate(model: LlamaForCausalLM, prompts: Replies, **options: str) -> Replies:
    batch = padded(model, prompts)
    out = model.generate(**batch, max_new_tokens=NEW, do_sample=False, **options)
    return [until_end(row) for row in out[:, batch["input_ids"].shape[1] :].tolist()]


def static_cache(model: LlamaForCausalLM, prompts: Replies) -> Replies:
    return transformers_generate(model, prompts, cache_implementation="static", disable_compile=True)


def continuous_batching(model: LlamaForCausalLM, prompts: Replies) -> Replies:
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)
    outputs = model.generate_batch(prompts, generation_config=config)
    order = sorted(outputs, key=lambda name: int(name.rpartition("_")[2]))
    return [outputs[name].generated_tokens for name in order]


def cyqd(model: LlamaForCausalLM, prompts: Replies) -> Replies:
    return generate(model, prompts, max_new_tokens=NEW, eos_ids={EOS}, pad_id=PAD)


ROUTES: dict[str, Callable[[LlamaForCausalLM, Replies], Replies]] = {
    "transformers generate, dynamic cache": transformers_generate,
    "transformers generate, static cache": static_cache,
    "transformers continuous batching": continuous_batching,
    "cyqd.llm.generation": cyqd,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="routes whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    rng = random.Random(0)
    prompts = [[rng.randrange(2, 640) for _ in range(rng.randint(30, 60))] for _ in range(120)]
    print("| model | route | ms | CPU ms | ratio | equal replies |\n|---|---|---|---|---|---|")
    for size, shape in SIZES.items():
        model = make_model(*shape).to(args.device)
        expected = [transformers_generate(model, [prompt])[0] for prompt in prompts[:30]]
        routes = {name: route for name, route in ROUTES.items() if args.only in name}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in routes}
        equal = dict.fromkeys(routes, 0)
        for _ in range(args.repeats + 1):  # the first round warms up
            for name, route in routes.items():
                start, cpu = time.perf_counter(), time.process_time()
                replies = route(model, prompts)
                seconds[name].append((time.process_time() - cpu, time.perf_counter() - start))
                equal[name] = sum(a == b for a, b in zip(replies, expected, strict=False))
        best = {name: min(times[1:]) for name, times in seconds.items()}
        first = next(iter(best.values()))[0]
        for name, (cpu, wall) in best.items():
            times = f"{1000 * wall:.0f} | {1000 * cpu:.0f} | {cpu / first:.2f}"
            print(f"| {size} | {name} | {times} | {equal[name]}/30 |", flush=True)
        print(f"mean reply: {statistics.mean(len(reply) for reply in expected):.1f} tokens")


if __name__ == "__main__":
    main()
