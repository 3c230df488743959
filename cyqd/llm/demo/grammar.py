"""What the demo's three grammars share: sentences, and the split of a grammar into training and evaluation."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

HELD_OUT = 0.4
"""Share of a grammar's sentences that is kept for evaluation."""

_TRIES = 10  # worlds drawn for a sentence before it is given up as degenerate


@dataclass(frozen=True)
class Part:
    """One word of a grammar: how the question says it, how the reply does, and what it means."""

    words: str
    code: str
    run: Callable[[Any], Any]


@dataclass(frozen=True)
class Sentence:
    """A question and its answer, before there is a world (lists, tables, files) to ask it about.

    Attributes:
        prompt: the user's message.
        reply: the gold reply; it is the sentence's key too.
        parts: the grammar's parts that it is made of.
        easy: whether the base model's training may hold it in full.
    """

    prompt: str
    reply: str
    parts: tuple[Any, ...]
    easy: bool

    @property
    def held_out(self) -> bool:
        """Whether the sentence is for evaluation only; a function of its gold reply alone."""
        digest = hashlib.sha256(self.reply.encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32


class Grammar(ABC):
    """A task's language: all of its sentences, and worlds in which their answers can be told apart."""

    name: str

    @abstractmethod
    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once."""

    @abstractmethod
    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw a world for ``sentence``.

        Returns:
            The task's keys beside ``id`` and ``prompt``, or None where in this world a trivial reply, or one
            that leaves out a part of the question, would pass as well.
        """

    def mistakes(self, sentence: Sentence) -> tuple[str, ...]:
        """Return wrong replies to ``sentence`` that the environment answers with an error."""
        return ()

    def record(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Return ``sentence`` as a line of the task's JSONL file, without its id; None if it is degenerate."""
        for _ in range(_TRIES):
            world = self.world(sentence, rng)
            if world is not None:
                return {"prompt": sentence.prompt, **world}
        return None
