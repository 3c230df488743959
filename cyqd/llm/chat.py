"""Conversations to learn from: JSONL files, and which tokens of a rendered conversation are learned."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

Conversation = list[dict[str, Any]]
"""Messages ``{"role", "content"}``; an assistant's message may carry ``"weight": 0``, then it is not learned."""

ROLES = ("system", "user", "assistant", "tool")
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """A tokenised conversation.

    Attributes:
        ids: token ids [length].
        labels: ``ids`` where the token is learned, -100 elsewhere [length].
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]


def read_conversations(path: Path) -> list[Conversation]:
    """Read a JSONL file of ``{"messages": [...]}`` or ``{"instruction", "input", "output"}`` lines.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and line of the first bad entry, or the file that holds none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"training data {path} not found; give JSONL files in data.train")
    conversations = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    conversations.append(_conversation(json.loads(line)))
                except ValueError as error:  # includes json.JSONDecodeError
                    raise ValueError(f"{path}, line {number}: {error}") from error
    if not conversations:
        raise ValueError(f"training data {path} holds no conversation")
    return conversations


def _conversation(entry: Any) -> Conversation:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a JSON object, got {type(entry).__name__}")
    if "messages" in entry:
        messages = entry["messages"]
    elif "instruction" in entry and "output" in entry:
        instruction, context = entry["instruction"], entry.get("input")
        user = f"{instruction}\n\n{context}" if context else instruction
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": entry["output"]}]
    else:
        raise ValueError(f'expected "messages", or "instruction" and "output", got the keys {sorted(entry)}')
    if not isinstance(messages, list):
        raise ValueError(f'"messages" must be a list, got {type(messages).__name__}')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f'message {i} needs a "role" out of {", ".join(ROLES)}, got {message!r:.80}')
        if not isinstance(message.get("content"), str):
            raise ValueError(f'message {i} needs a "content" that is a text, got {message!r:.80}')
        if message.get("weight", 1) not in (0, 1):
            raise ValueError(f'"weight" of message {i} must be 0 or 1, got {message["weight"]!r}')
    if not any(learned(message) for message in messages):
        raise ValueError("no assistant message to learn from")
    return messages


def learned(message: dict[str, Any]) -> bool:
    """Whether a message is learned: the assistant's, unless its weight is 0."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) == 1)


TEMPLATES: dict[str, str] = {
    # Magicoder's as the paper's reference code has it (SakanaAI/CycleQD, tasks/mbpp.py), for the coding task.
    "magicoder": (
        "{{ bos_token }}"
        "{% if not messages or messages[0].role != 'system' %}"
        "{{ 'You are an exceptionally intelligent coding assistant that consistently delivers accurate and "
        "reliable responses to user instructions.\\n\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{% if message.role == 'system' %}{{ message.content | trim + '\\n\\n' }}"
        "{% elif message.role == 'user' %}{{ '@@ Instruction:\\n' + message.content | trim + '\\n\\n' }}"
        "{% else %}{{ '@@ Response:\\n' + message.content | trim }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '@@ Response:' }}{% endif %}"
    ),
}
"""Chat templates (Jinja) that replace a tokenizer's own, by name."""


def chat_template(name: str | None) -> str | None:
    """Return a chat template by its name in :data:`TEMPLATES` or its file; None stands for the tokenizer's own.

    Raises:
        FileNotFoundError: if it is neither.
    """
    if name is None or name in TEMPLATES:
        return name and TEMPLATES[name]
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"template: expected a file with a Jinja template, or one of {', '.join(TEMPLATES)}; got {name}"
        )
    return Path(name).read_text(encoding="utf-8")


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, Any]],
    *,
    prompt: bool,
    template: str | None = None,
) -> str:
    """Return a conversation as the model sees it.

    Args:
        tokenizer: for its chat template.
        messages: the conversation.
        prompt: end where the assistant begins to write, behind a last message of its own if there is one.
        template: chat template in place of the tokenizer's.
    """
    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    begun = plain.pop()["content"] if prompt and plain and plain[-1]["role"] == "assistant" else ""
    text = tokenizer.apply_chat_template(
        plain, tokenize=False, add_generation_prompt=prompt, chat_template=template
    )
    return str(text) + begun


def learned_spans(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> tuple[str, list[slice]]:
    """Render a conversation and find the characters that the assistant writes, end-of-turn token included.

    A turn is what the template adds between the prompt before it and the conversation up to it. So any chat
    template will do whose output for the first messages begins its output for all of them.

    Returns:
        The text, and one slice of it per learned message.

    Raises:
        ValueError: if the template rewrites earlier messages.
    """
    text = render(tokenizer, messages, prompt=False)
    ends_of_turn = tuple(tokenizer.all_special_tokens)
    spans = []
    for i, message in enumerate(messages):
        if not learned(message):
            continue
        before = render(tokenizer, messages[:i], prompt=True)
        after = render(tokenizer, messages[: i + 1], prompt=False)
        if not (text.startswith(after) and after.startswith(before)):
            raise ValueError(
                f"the chat template renders the first {i + 1} messages differently when more follow, so that the "
                f"assistant's text cannot be found; use a template that only appends. Prompt: ...{before[-80:]!r}"
            )
        bare = after.rstrip()  # white space behind the end-of-turn token belongs to the template
        spans.append(slice(len(before), len(bare) if bare.endswith(ends_of_turn) else len(after)))
    return text, spans


def tokenise(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], *, max_length: int
) -> tuple[list[Example], int, int]:
    """Tokenise conversations and mark the tokens that are learned.

    A conversation longer than ``max_length`` tokens is cut behind its last learned message that fits as a whole,
    and dropped if none does: no half reply is ever learned.

    Returns:
        The examples, the number cut and the number dropped.

    Raises:
        ValueError: if the tokenizer gives no character offsets, or the template rewrites earlier messages.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer, whose offsets the loss mask needs")
    rendered = [learned_spans(tokenizer, messages) for messages in conversations]
    encoded = tokenizer(
        [text for text, _ in rendered],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    examples, cut, dropped = [], 0, 0
    for ids, offsets, (_, spans) in zip(encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True):
        starts = [start for start, _ in offsets]
        turns = [slice(bisect_left(starts, s.start), bisect_left(starts, s.stop)) for s in spans]
        length = len(ids)
        if length > max_length:
            turns = [turn for turn in turns if turn.stop <= max_length]
            length = turns[-1].stop if turns else 0
            cut += bool(turns)
            dropped += not turns
        if length:
            tokens = np.array(ids[:length], dtype=np.int32)
            labels = np.full(length, IGNORED, dtype=np.int32)
            for turn in turns:
                labels[turn] = tokens[turn]
            examples.append(Example(tokens, labels))
    return examples, cut, dropped
