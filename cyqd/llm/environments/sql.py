"""Scratch databases for model-written SQL: what they are, which engines there are, and SQLite in the sandbox."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyqd.llm.environments.sandbox import Job, Limits, Outcome, SandboxUnavailable, shared_sandbox

_PROGRAM = Path(__file__).with_name("sqlite_program.py")


class DatabaseUnavailable(SandboxUnavailable):
    """The database server cannot be reached or does not let us do what is needed."""


class DatabaseFault(Exception):
    """A scratch database broke, through no fault of the SQL: its server went away."""


@dataclass(frozen=True)
class Table:
    """The one table that a scratch database starts with; its columns are text.

    Where the engine refuses it (columns of the same name, rows of another width), the database starts without it,
    or without its rows.

    Attributes:
        name: any text that the engine takes for a name: MySQL up to 64 characters, SQLite any number.
        columns: their names.
        rows: their values, a text for each column.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SQLOptions:
    """What SQL may use, and how it runs.

    Attributes:
        seconds: time for each :meth:`Scratch.execute`.
        shown: characters of an answer; what is longer is cut, and ends in "[TRUNCATED]".
        mode: MySQL's ``sql_mode``; None leaves the server's own.
    """

    seconds: float = 5.0
    shown: int = 800
    mode: str | None = ""

    def show(self, text: str) -> str:
        """Return ``text``, cut where it is too long."""
        return text if len(text) <= self.shown else f"{text[: self.shown]}[TRUNCATED]"


class Scratch(ABC):
    """A database of its own for one dialogue. Used by one thread at a time.

    As with AgentBench's connector, each call is a session of its own (so no temporary table or variable outlives
    it), and is committed as a whole or, where it fails, not at all, as far as the engine can undo it.
    """

    retried: str | None = None
    """What broke and went well when it was tried again, where something did."""

    @abstractmethod
    def execute(self, sql: str) -> str:
        """Run SQL; return its first statement's rows, as Python shows them, or an error's text.

        Raises:
            DatabaseFault: if the database broke.
        """

    @abstractmethod
    def table_hash(self) -> str | None:
        """Return the MD5 of what the table holds, rows in any order; None where it is gone or empty.

        AgentBench's form: the first 5 hexadecimal digits of the MD5 of each row, its values that are not NULL
        joined by commas; sorted, joined by commas, and hashed again.

        Raises:
            DatabaseFault: if the database broke.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove the database. Does not raise where its server is gone: what is left is removed later."""


class SQLEngine(ABC):
    """Where scratch databases are made. Thread-safe."""

    @abstractmethod
    def open(self, table: Table) -> Scratch:
        """Make a database that holds ``table``.

        Raises:
            DatabaseUnavailable: if the engine cannot be used at all.
            DatabaseFault: if it broke after it was used before.
        """

    def close(self) -> None:  # noqa: B027  SQLite has nothing to give back
        """Give everything back; the next :meth:`open` starts afresh."""


def sql_engine(url: str, options: SQLOptions) -> SQLEngine:
    """Return the engine that ``url`` names; nothing is started yet.

    Args:
        url: "sqlite://", in memory in the sandbox; "mysql+pymysql://USER:PASSWORD@HOST/", a MySQL or MariaDB server
            (for a local socket ``…@localhost/?unix_socket=PATH``); "docker" or "docker:IMAGE", a container of one.
        options: for all of its databases.

    Raises:
        ValueError: if it is none of these.
    """
    # The libraries of each load only where they are used.
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest in ("//", "///:memory:"):
        return SQLite(options)
    if kind == "docker":
        from cyqd.llm.environments.mysql_container import MySQLContainer

        return MySQLContainer(rest or None, options)
    if kind in ("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql") and rest.startswith("//"):
        from sqlalchemy.engine import make_url

        from cyqd.llm.environments.mysql import MySQL

        return MySQL(make_url(url), options)
    raise ValueError(
        "engine must be sqlite:// (in memory), mysql+pymysql://USER:PASSWORD@HOST/, docker or docker:IMAGE, got "
        f"{url!r}"
    )


class SQLite(SQLEngine):
    """SQLite in memory, inside of the sandbox: needs no server."""

    def __init__(self, options: SQLOptions) -> None:
        self.options = options

    def open(self, table: Table) -> Scratch:
        """Make a database; see :meth:`SQLEngine.open`."""
        return _SQLiteScratch(table, self.options)


class _SQLiteScratch(Scratch):
    """Makes the table anew and runs again what has succeeded so far, in a new job for each call."""

    def __init__(self, table: Table, options: SQLOptions) -> None:
        self.table = table
        self.options = options
        self._done: list[str] = []

    def execute(self, sql: str) -> str:
        outcome = self._run([*self._done, sql], hash_only=False)
        if outcome.status != "ok":
            return _stopped(outcome)
        answer = json.loads(outcome.stdout)
        if not answer["failed"]:
            self._done.append(sql)
        return self.options.show(answer["text"])

    def table_hash(self) -> str | None:
        outcome = self._run(self._done, hash_only=True)
        return json.loads(outcome.stdout)["hash"] if outcome.status == "ok" else None

    def close(self) -> None:
        """Nothing is left between calls."""

    def _run(self, blocks: Sequence[str], *, hash_only: bool) -> Outcome:
        seconds = self.options.seconds
        request: dict[str, Any] = {
            "table": asdict(self.table),
            "blocks": blocks,
            "seconds": seconds,
            "shown": self.options.shown + 1,
            "hash_only": hash_only,
        }
        job = Job(_PROGRAM.read_text(encoding="utf-8"), files={"request.json": json.dumps(request)})
        most = (len(blocks) + 1) * seconds + 2
        outcome = shared_sandbox().submit(job, Limits(wall_seconds=most, cpu_seconds=most)).result()
        if outcome.status == "fault":
            raise DatabaseFault(outcome.stderr)
        self.retried = self.retried or outcome.retried
        return outcome


def _stopped(outcome: Outcome) -> str:
    """Return what to tell about a job that was stopped, or whose interpreter the SQL brought down."""
    reasons = {"timeout": "time limit", "memory": "out of memory", "output": "too much output"}
    return f"Error: {reasons.get(outcome.status, 'the statement failed')}"
