"""Many dialogues at once: the model writes for one batch while environments answer to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace

from cyqd.llm.tasks.base import Task, Turn
from cyqd.llm.tasks.problems import Message, Problem
from cyqd.training import Transcript

Reply = Callable[[Task, "Sequence[Dialogue]"], "list[str | None]"]
"""Writes the next reply of some dialogues; None where one has grown too long for the model."""

TOO_LONG = "the conversation no longer fits into the model's context"


@dataclass
class Dialogue:
    """One conversation about a problem so far.

    Attributes:
        problem: what it is about.
        sample: which of the problem's dialogues it is, from 0.
        messages: all messages, the problem's first ones included.
        replies: the model's replies; the first one with the prefix that the problem gives it, if any.
        turn: the environment's answer to the last of them, once it is there.
        retried: why an environment had to be replaced, where one had.
    """

    problem: Problem
    sample: int
    messages: list[Message]
    replies: list[str] = field(default_factory=list)
    turn: Future[Turn] | None = None
    retried: str | None = None

    @property
    def transcript(self) -> Transcript:
        """The conversation, to look at; it grows as this does."""
        first = self.problem.messages
        return Transcript(self.messages, len(first) - (first[-1]["role"] == "assistant"))

    def say(self, text: str) -> None:
        """Add the model's newest reply."""
        if self.messages[-1]["role"] == "assistant":  # the beginning of a reply, which the model continued
            text = self.messages.pop()["content"] + text
        self.messages.append({"role": "assistant", "content": text})
        self.replies.append(text)


@dataclass
class Batch:
    """Dialogues that are always generated for together.

    Attributes:
        task: judges them.
        finish: is told a problem and its result.
        open: the dialogues that wait for the environment.
        ended: the last turns of dialogues that are over, by problem.
    """

    task: Task
    finish: Callable[[Problem, Turn], None]
    open: list[Dialogue]
    ended: dict[str, list[Turn]] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether the environment has answered all open dialogues."""
        return all(dialogue.turn is not None and dialogue.turn.done() for dialogue in self.open)

    def end(self, dialogue: Dialogue, turn: Turn) -> None:
        """Note a dialogue's last turn; finish the problem with the last of its dialogues."""
        turns = self.ended.setdefault(dialogue.problem.id, [])
        turns.append(replace(turn, retried=turn.retried or dialogue.retried))
        if len(turns) == self.task.samples:
            self.finish(dialogue.problem, self.task.combine(turns))


class Dialogues:
    """Plays dialogues in batches, environments in the background.

    What the model is asked in one call comes from one batch alone, so that a reply does not depend on what else
    is under way, nor on how fast environments answer.

    Args:
        reply: the model.
        timings: seconds in ``generate`` and waiting for ``environments`` are added to it.
    """

    def __init__(self, reply: Reply, timings: dict[str, float]) -> None:
        self.reply = reply
        self.timings = timings
        self.batches: list[Batch] = []

    def add(self, task: Task, problems: Sequence[Problem], finish: Callable[[Problem, Turn], None]) -> None:
        """Begin dialogues about some problems, then continue those whose environments have answered.

        Before, it plays others to their end where the task would have too many under way.
        """
        while self._under_way(task) and self._under_way(task) + len(problems) * task.samples > task.waiting:
            self._wait()
        dialogues = [Dialogue(p, sample, list(p.messages)) for p in problems for sample in range(task.samples)]
        batch = Batch(task, finish, dialogues)
        self.batches.append(batch)
        self._write(batch)
        for batch in [batch for batch in self.batches if batch.answered]:
            self._advance(batch)

    def drain(self) -> None:
        """Play all dialogues to their end."""
        while self.batches:
            self._wait()

    def _under_way(self, task: Task) -> int:
        return sum(len(batch.open) for batch in self.batches if batch.task is task)

    def _wait(self) -> None:
        """Wait until a batch has been answered, and continue it."""
        start = time.perf_counter()
        while not any(batch.answered for batch in self.batches):
            turns = [d.turn for batch in self.batches for d in batch.open if d.turn is not None]
            wait([turn for turn in turns if not turn.done()], return_when=FIRST_COMPLETED)
        self._spend("environments", start)
        self._advance(next(batch for batch in self.batches if batch.answered))

    def _advance(self, batch: Batch) -> None:
        """Take an answered batch's turns, and write its next replies."""
        still_open = []
        for dialogue in batch.open:
            assert dialogue.turn is not None
            turn = dialogue.turn.result()
            dialogue.retried = turn.retried or dialogue.retried
            if turn.done or len(dialogue.replies) >= batch.task.max_turns:
                batch.end(dialogue, turn)
            else:
                dialogue.messages.append({"role": "user", "content": turn.observation})
                still_open.append(dialogue)
        batch.open = still_open
        self._write(batch)

    def _write(self, batch: Batch) -> None:
        """Let the model reply to a batch's open dialogues, and submit the replies; forget a batch with none."""
        if batch.open:
            start = time.perf_counter()
            replies = self.reply(batch.task, batch.open)
            self._spend("generate", start)
            written = []
            for dialogue, reply in zip(batch.open, replies, strict=True):
                if reply is None:
                    batch.task.abandon(dialogue.problem, dialogue.replies)
                    batch.end(dialogue, Turn(done=True, fault=TOO_LONG))
                    continue
                dialogue.say(reply)
                dialogue.turn = batch.task.submit(dialogue.problem, list(dialogue.replies))
                written.append(dialogue)
            batch.open = written
        if not batch.open:
            self.batches.remove(batch)

    def _spend(self, part: str, start: float) -> None:
        self.timings[part] = self.timings.get(part, 0.0) + time.perf_counter() - start
