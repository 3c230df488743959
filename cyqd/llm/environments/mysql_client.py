"""Model-written SQL on MySQL, as the client sees it: one block of statements, bounded in time and result."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql.connections import Connection

from cyqd.llm.environments.sql import DatabaseFault

RESULT_BYTES = 4 << 20  # of all that a connection reads, which is held in memory

# The server cannot be reached, shuts down, has no free connection, or has ended this one.
_LOST = {0, 1040, 1053, 1152, 1927, 2002, 2003, 2006, 2013, 2055}
_NO_ROOM = {1021, 1037, 1041}  # on its disk or in its memory; 1114, "the table is full", is a table's own limit


# A transaction that is prepared outlives its connection and holds a shared server's tables for ever.
_REFUSED = re.compile(r"\bXA\s+(?:START|BEGIN)\b", re.IGNORECASE)


class SQLError(Exception):
    """SQL that failed; its text is the client's message.

    Attributes:
        state: the SQL state, where the server gave one; its first two characters are a class of errors.
    """

    def __init__(self, message: str, state: str = "HY000") -> None:
        super().__init__(message)
        self.state = state


class BoundedConnection(Connection):  # type: ignore[misc]  # pymysql has no types
    """A connection that reads no more than RESULT_BYTES."""

    _left = RESULT_BYTES

    def _read_bytes(self, num_bytes: int) -> bytes:
        self._left -= num_bytes
        if self._left < 0:
            self._force_close()
            raise SQLError("Error: the result is too large")
        data: bytes = super()._read_bytes(num_bytes)
        return data


def query(
    connection: BoundedConnection, schema: str, sql: str, values: Sequence[str] | None = None
) -> list[tuple[Any, ...]]:
    """Run a block of statements as one transaction and return the rows of the first.

    Args:
        connection: a fresh one.
        schema: the database to use.
        sql: the statements.
        values: for each ``%s`` in ``sql``; None where a % is a %.

    Raises:
        SQLError: if the SQL failed.
        ConnectionError: if the connection was lost, with the message.
        DatabaseFault: if the server has no room.
    """
    if _REFUSED.search(sql):
        raise SQLError("1235 (42000): distributed transactions are not supported here", "42000")
    with connection.cursor() as cursor:
        try:
            connection.select_db(schema)
            cursor.execute(sql, values)
            rows = list(cursor.fetchall())
            while cursor.nextset():
                pass
            connection.commit()
            return rows
        except UnicodeEncodeError as error:
            raise SQLError(f"Error: {error}") from error
        except pymysql.Error as error:
            if not error.args or error.args[0] in _LOST:
                raise ConnectionError(_message(error)) from error
            if error.args[0] in _NO_ROOM:
                raise DatabaseFault(f"the database server has no room: {error}") from error
            raise SQLError(_message(error), _state(error)) from error


@contextmanager
def limited(seconds: float, stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` if the body takes longer than ``seconds``; then what it raises becomes an SQLError.

    The server's own limits do not suffice: any statement may lift them.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        stop()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    except (SQLError, ConnectionError) as error:
        if late.is_set():
            raise SQLError("Error: time limit") from error
        raise
    finally:
        timer.cancel()


def quote(name: str) -> str:
    """Return ``name`` as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def _message(error: pymysql.Error) -> str:
    """Return an error as MySQL's own connector prints it."""
    return f"{error.args[0]} ({_state(error)}): {error.args[1]}" if len(error.args) == 2 else f"Error: {error}"


def _state(error: pymysql.Error) -> str:
    return error.sqlstate or "HY000"
