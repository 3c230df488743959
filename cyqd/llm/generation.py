"""Decoding of many prompts at once, in place on the live model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

COMPACT_AT = 0.9  # finished rows are dropped when no more than this share of the rows still runs
GROWTH = 64  # tokens by which a cache's buffers grow
MIN_SHARED = 8  # shorter common beginnings are not worth a forward pass of their own
MAX_PADDING = 128  # a prompt padded by more than this and its own length goes into another bucket


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: set[int],
    pad_id: int,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
) -> list[list[int]]:
    """Continue every prompt until an end token or the limit.

    Prompts of very different lengths are decoded in separate buckets, and what a bucket's prompts all begin with,
    such as a system message, is computed once for all of them.

    Args:
        model: causal language model, in evaluation mode; its weights are used as they are.
        prompts: token ids, each at least one.
        max_new_tokens: at most this many new tokens a prompt.
        eos_ids: tokens that end a reply; they are part of the result.
        pad_id: fills the left of shorter prompts; masked, so any valid token will do.
        temperature: of the distribution that tokens are drawn from; 0 takes the likeliest.
        seeds: of each prompt's draws, where the temperature is not 0; whatever else is in the batch, a prompt's
            draws are the same.

    Returns:
        The new tokens of each prompt.
    """
    replies: list[list[int]] = [[] for _ in prompts]
    for bucket in _buckets([len(prompt) for prompt in prompts]):
        chosen = [prompts[i] for i in bucket]
        draws = _uniforms([seeds[i] for i in bucket], max_new_tokens) if temperature else None
        new = _decode(
            model,
            chosen,
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            pad_id=pad_id,
            temperature=temperature,
            draws=draws,
        )
        for i, reply in zip(bucket, new, strict=True):
            replies[i] = reply
    return replies


def _buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Group prompts, longest first, so that padding stays small beside the longest one's tokens."""
    buckets: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[buckets[-1][0]] if buckets else 0
        if not buckets or longest - lengths[i] > max(MAX_PADDING, lengths[i]):
            buckets.append([])
        buckets[-1].append(i)
    return buckets


@torch.inference_mode()
def _decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: set[int],
    pad_id: int,
    temperature: float,
    draws: Tensor | None,
) -> list[list[int]]:
    device = model.device
    cache = DynamicCache(config=model.config)
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)  # full attention in every layer
    if plain:
        cache.layers = [BufferedLayer() for _ in cache.layers]
    shared = _shared_prefix(prompts) if plain else 0
    if shared:
        prefix = torch.tensor([prompts[0][:shared]], device=device)
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width - shared), pad_id)
    mask = torch.zeros(len(prompts), width + max_new_tokens, dtype=torch.bool)
    mask[:, :shared] = mask[:, width:] = True
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt[shared:])
        mask[row, width - len(prompt) + shared : width] = True
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask[:, :width].cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    ends = torch.tensor(sorted(eos_ids), device=device)
    new = torch.full((len(prompts), max_new_tokens), pad_id, device=device)
    rows = torch.arange(len(prompts), device=device)  # which prompt each row of the batch continues
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, : width + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        if draws is None:
            token = logits[:, -1].argmax(dim=-1)
        else:
            token = _draw(logits[:, -1], temperature, draws[rows.cpu(), step])
        new[rows, step] = token  # what a finished row goes on to write is cut off below
        running &= torch.isin(token, ends, invert=True)
        left = int(running.sum())
        if left == 0:
            break
        if left <= COMPACT_AT * len(rows):
            kept = running.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            rows, mask, token, positions = rows[kept], mask[kept], token[kept], positions[kept]
            running = running[kept]
        ids, positions = token[:, None], positions[:, -1:] + 1
    return [_until_end(tokens, eos_ids) for tokens in new.tolist()]


def _uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """Return numbers uniform on [0, 1), ``count`` from each seed: float64 [seeds, count]."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generators])


def _draw(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """Return a token of each row of logits [rows, vocabulary], by inverting the distribution function."""
    cumulative = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    targets = uniforms.to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all prompts share, leaving each at least one; 0 where it does not pay."""
    limit = min(map(len, prompts)) - 1
    same = (len(set(column)) == 1 for column in zip(*prompts, strict=False))
    shared = next((i for i, equal in enumerate(same) if i >= limit or not equal), limit)
    return shared if len(prompts) > 1 and shared >= MIN_SHARED else 0


def _until_end(tokens: list[int], eos_ids: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return tokens[: end + 1]


class BufferedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values as views into buffers that grow now and then.

    transformers' own layer copies all keys and values at every token.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, tokens, size]; return all of them."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self.buffers is None or end > self.buffers[0].shape[-2]:
            self._grow(key_states, value_states, end + GROWTH)
        assert self.buffers is not None
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        old = (self.keys, self.values) if self.is_initialized else (None, None)
        buffers = []
        for states, held in zip((keys, values), old, strict=True):
            buffer = states.new_empty(*states.shape[:2], capacity, states.shape[-1])
            if held is not None:
                buffer[:, :, : held.shape[-2]] = held
            buffers.append(buffer)
        self.buffers = (buffers[0], buffers[1])
        self.is_initialized = True

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self.buffers = None  # the next update makes new ones
        super().batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.buffers = None
        super().batch_repeat_interleave(repeats)
