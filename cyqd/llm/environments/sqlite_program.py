"""Runs in the sandbox: SQL on a table in memory. Reads request.json, prints one JSON object.

The request: ``table`` (name, columns, rows), ``blocks`` of SQL in turn, ``seconds`` for each, ``shown`` characters
of the last one's answer, and ``hash_only``, which asks for the table's hash afterwards instead.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

DENIED = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}  # VACUUM attaches
TRANSACTIONS = {sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT}
PRAGMAS = {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"}
FAILURES = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError)

deadline = 0.0
model_written = False


def authorise(action: int, first: str | None, second: str | None, *_: object) -> int:
    """Refuse what reaches beyond the database; take no notice of transactions, since each block is one."""
    if not model_written:
        return sqlite3.SQLITE_OK
    if action in TRANSACTIONS:
        return sqlite3.SQLITE_IGNORE
    bad = (
        action in DENIED
        or (action == sqlite3.SQLITE_PRAGMA and (first or "").lower() not in PRAGMAS)
        or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() == "load_extension")
    )
    return sqlite3.SQLITE_DENY if bad else sqlite3.SQLITE_OK


def compare(a: str, b: str) -> int:
    """Order texts as MySQL's usual collations do: neither case nor accents count."""
    a, b = fold(a), fold(b)
    return (a > b) - (a < b)


def fold(text: str) -> str:
    """Return ``text`` without case and accents."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(c for c in parts if not unicodedata.combining(c)).casefold()


def quote(name: str) -> str:
    """Return ``name`` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def statements(block: str) -> Iterator[str]:
    """Split at semicolons outside of quotes and comments."""
    text = ""
    for part in block.split(";"):
        text += part + ";"
        if sqlite3.complete_statement(text):
            yield text
            text = ""
    if text:
        yield text


def run(database: sqlite3.Connection, block: str, seconds: float, shown: int) -> tuple[bool, str]:
    """Run a block; return whether it failed, and the error or its first statement's rows, as far as is shown."""
    global deadline, model_written
    deadline = time.monotonic() + seconds
    first = None
    database.execute("BEGIN")
    model_written = True
    try:
        for statement in statements(block):
            rows, length = [], 0
            for row in database.execute(statement):
                rows.append(row)
                length += len(repr(row))
                if length > shown:
                    break
            first = rows if first is None else first
        failed, text = False, str(first)
    except FAILURES as error:
        failed, text = True, str(error) or type(error).__name__
    model_written = False
    deadline = float("inf")
    if database.in_transaction:  # INSERT OR ROLLBACK may have ended it
        database.execute("ROLLBACK" if failed else "COMMIT")
    return failed, text[:shown]


def make(database: sqlite3.Connection, table: dict[str, Any]) -> None:
    """Make the table, as far as it can be made."""
    columns = ",".join(quote(name) + " TEXT COLLATE mysql" for name in table["columns"])
    try:
        database.execute(f"CREATE TABLE {quote(table['name'])} ({columns})")
        marks = ",".join("?" * len(table["columns"]))
        with database:
            database.execute("BEGIN")
            database.executemany(f"INSERT INTO {quote(table['name'])} VALUES ({marks})", table["rows"])
    except sqlite3.Error:
        pass  # as the class Table says


def table_hash(database: sqlite3.Connection, table: dict[str, Any], seconds: float) -> str | None:
    """Return the hash that MySQL's MD5, CONCAT_WS and GROUP_CONCAT would make of the table."""
    global deadline
    deadline = time.monotonic() + seconds
    columns = ",".join(map(quote, table["columns"]))
    try:
        rows = database.execute(f"SELECT {columns} FROM {quote(table['name'])}").fetchall()
    except FAILURES:
        return None
    texts = (",".join(str(value) for value in row if value is not None) for row in rows)
    parts = sorted(hashlib.md5(text.encode()).hexdigest()[:5] for text in texts)
    return hashlib.md5(",".join(parts).encode()).hexdigest() if parts else None


def main() -> None:
    """Answer the request."""
    with open("request.json", encoding="ascii") as file:
        request = json.load(file)
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.create_collation("mysql", compare)
    make(database, request["table"])
    database.set_authorizer(authorise)
    database.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
    answer = {}
    for block in request["blocks"]:
        failed, text = run(database, block, request["seconds"], request["shown"])
        answer = {"failed": failed, "text": text}
    if request["hash_only"]:
        answer = {"hash": table_hash(database, request["table"], request["seconds"])}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
