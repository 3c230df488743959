"""Tasks whose environment lives on between turns: a container, a database on a server."""

from __future__ import annotations

import atexit
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from cyqd.llm.environments.sandbox import cpus_of_this_process
from cyqd.llm.tasks.base import Task, Turn
from cyqd.llm.tasks.problems import Problem

ATTEMPTS = 3  # environments that a dialogue may use up before it counts as a fault

_Key = tuple[str, tuple[str, ...]]


class EnvironmentFault(Exception):
    """An environment broke, through no fault of the model: a killed container, a server that went away."""


class Session(ABC):
    """One problem's live environment. Used by one thread at a time."""

    @abstractmethod
    def reply(self, text: str, *, last: bool) -> Turn:
        """Carry out the model's next reply and answer it.

        Args:
            text: the reply.
            last: whether it is the model's last turn, after which there is nothing to observe.

        Raises:
            EnvironmentFault: if the environment broke; the dialogue is played again on a fresh one.
        """

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Must not raise where the environment is gone already; called once."""


class LiveTask(Task):
    """A task that keeps a dialogue's environment between its turns.

    A session that waits for its next turn may be closed to make room for others; its replies are then played again
    in a fresh one, just as after a fault. So sessions of one problem must start alike.

    Args:
        environments: sessions at work at a time, on each process; by default two for each of its CPUs.
        waiting: sessions kept alive between turns, on each process. No more batches of dialogues are begun while
            so many are under way.
    """

    def __init__(
        self, problems: Path, *, environments: int | None = None, waiting: int = 128, **options: Any
    ) -> None:
        super().__init__(problems, **options)
        for key, number, least in ("environments", environments, 1), ("waiting", waiting, 0):
            if number is not None and number < least:
                raise ValueError(f"task {self.name}: {key} must be at least {least}, got {number}")
        self._environments = environments
        self.waiting = waiting
        self._waiting: OrderedDict[int, tuple[_Key, Session]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    @property
    def environments(self) -> int:
        """How many sessions are at work at a time; known once the processes have met, who share the CPUs."""
        return self._environments or 2 * cpus_of_this_process()

    @abstractmethod
    def open(self, problem: Problem) -> Session:
        """Start a problem's environment, in a background thread.

        Raises:
            EnvironmentFault: if it broke while it started; it is tried again.
        """

    def submit(self, problem: Problem, replies: Sequence[str]) -> Future[Turn]:
        """Judge a dialogue in the background; see :meth:`Task.submit`.

        Raises:
            ValueError: if there is no reply, or there are more than ``max_turns``.
        """
        if not 1 <= len(replies) <= self.max_turns:
            raise ValueError(f"task {self.name}: 1 to {self.max_turns} replies expected, got {len(replies)}")
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.environments, thread_name_prefix=self.name)
                atexit.register(self.close)
            return self._threads.submit(self._play, problem, tuple(replies))

    def abandon(self, problem: Problem, replies: Sequence[str]) -> None:
        """Close the session of a dialogue that will have no further turn; see :meth:`Task.abandon`."""
        if session := self._take((problem.id, tuple(replies))):
            session.close()

    def close(self) -> None:
        """Close all waiting sessions and let running ones end; the next :meth:`submit` starts afresh."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)
            atexit.unregister(self.close)
        while self._waiting:
            self._waiting.popitem()[1][1].close()

    def _play(self, problem: Problem, replies: tuple[str, ...]) -> Turn:
        """Play the newest reply in the session that waits for it, or all of them in a fresh one."""
        session = self._take((problem.id, replies[:-1]))
        played = len(replies) - 1 if session else 0
        reason = None
        for _ in range(ATTEMPTS):
            try:
                if session is None:
                    session, played = self.open(problem), 0
                for number in range(played + 1, len(replies) + 1):
                    turn = session.reply(replies[number - 1], last=number == self.max_turns)
                    if turn.done:
                        break
            except EnvironmentFault as fault:
                reason = str(fault)
                if session is not None:
                    session.close()
                    session = None
                continue
            except BaseException:
                if session is not None:
                    session.close()
                raise
            if turn.done or len(replies) == self.max_turns:
                session.close()
                turn = replace(turn, done=True)
            else:
                self._keep((problem.id, replies), session)
            return replace(turn, retried=reason or turn.retried)
        return Turn(done=True, fault=reason)

    def _take(self, key: _Key) -> Session | None:
        with self._lock:
            found = next((number for number, (k, _) in self._waiting.items() if k == key and k[1]), None)
            return None if found is None else self._waiting.pop(found)[1]

    def _keep(self, key: _Key, session: Session) -> None:
        with self._lock:
            self._count += 1
            self._waiting[self._count] = key, session
            surplus = [
                self._waiting.popitem(last=False)[1][1] for _ in range(len(self._waiting) - int(self.waiting))
            ]
        for old in surplus:
            old.close()
