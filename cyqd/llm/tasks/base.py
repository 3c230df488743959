"""What a task is: problems, and an environment that answers and judges a model's replies."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["optimisation", "test"]
Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    Attributes:
        id: unique within the task.
        messages: the conversation up to the model's first reply.
        spec: what the environment needs (tests, tables, files, the expected answer).
    """

    id: str
    messages: tuple[Message, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """The environment's answer to a reply.

    Attributes:
        done: whether the dialogue is over.
        score: in [0, 1]; the problem's score where ``done``, else 0.
        observation: what the model is told next, as a user message, where not ``done``.
        fault: what broke, where the environment itself failed (not the model); the problem then scores 0.
    """

    done: bool
    score: float = 0.0
    observation: str = ""
    fault: str | None = None


class Task(ABC):
    """A skill: problems in a JSONL file, split evenly by seed, and the environment that judges replies.

    Args:
        problems: JSONL file, one problem a line.
        name: the task's name; by default the class's.
        max_turns: at most this many replies per problem; the last one is final.
        split_seed: seed of the even split into an optimisation half and a test half.
        limit: use at most this many problems of each half.
    """

    default_name: str

    def __init__(
        self,
        problems: Path,
        *,
        name: str | None = None,
        max_turns: int = 5,
        split_seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.path = Path(problems)
        self.name = name or self.default_name
        self.max_turns = max_turns
        self.split_seed = split_seed
        self.limit = limit

    @abstractmethod
    def problems(self, split: Split) -> Sequence[Problem]:
        """Return the problems of one half, in a fixed order."""

    @abstractmethod
    def submit(self, problem: Problem, replies: Sequence[str]) -> Future[Turn]:
        """Judge a dialogue in the background.

        The environment has no state between calls: it starts from the problem's initial state and runs all
        ``replies``, so that an answer is a function of the problem and the replies and can be cached.

        Args:
            problem: the problem.
            replies: all of the model's replies so far, the newest last; at most ``max_turns``.
        """
