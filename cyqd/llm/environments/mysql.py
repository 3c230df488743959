"""Scratch databases on a MySQL or MariaDB server, each with an account that can do nothing elsewhere."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pymysql
from pymysql.constants import CLIENT
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from cyqd.llm.environments.mysql_client import BoundedConnection, SQLError, limited, query, quote
from cyqd.llm.environments.sql import DatabaseFault, DatabaseUnavailable, Scratch, SQLEngine, SQLOptions, Table

PATIENCE_SECONDS = 30.0  # a server that goes away may be back by then
JUDGING_SECONDS = 10.0  # for the hash of the table, which may have become a view that never ends
LOCK_SECONDS = 5  # something that still uses a schema is waited for, before it is left to the next start
HANG_SECONDS = 10.0  # a server answers within a statement's time and this, or counts as gone

# What the scratch account may do, on its own schema alone. Not EVENT, TRIGGER and ROUTINE: those run on without us.
PRIVILEGES = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, "
    "CREATE VIEW, SHOW VIEW"
)
# A name says whose it is: the owner, whose lock of that name the server holds, and a number. It has none of the
# wildcards that GRANT knows.
_NAME = "^(cyqd[0-9a-f]{8})x[0-9]+$"

_DENIED = 1045
_REFUSED = ("21", "22", "42")  # classes of SQL states: wrong number of values, wrong value, wrong name or syntax


class MySQL(SQLEngine):
    """A MySQL or MariaDB server.

    Each dialogue gets a schema and an account limited to it, both removed afterwards. While this process lives it
    holds a named lock; what it leaves behind when it is killed is found by its name with nobody holding the lock,
    and removed by whoever comes next, from whatever machine.

    Args:
        url: "mysql+pymysql://USER:PASSWORD@HOST/". The account must be able to create and drop schemas and
            accounts, to grant what :data:`PRIVILEGES` lists, to read ``mysql.user``, and to see and end
            connections.
        options: for all of its databases.
    """

    _alone = False  # whether nobody else uses the server

    def __init__(self, url: URL, options: SQLOptions) -> None:
        self.options = options
        self._url = url.set(drivername="mysql+pymysql", database=None)
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._open: set[str] = set()
        self._admin: Engine | None = None
        self._holder: Connection | None = None
        self._usable = False
        self._owner = ""
        self._host = ""
        self._setup = ""

    def open(self, table: Table) -> Scratch:
        """Make a database; see :meth:`SQLEngine.open`."""
        name = f"{self.hold()}x{next(self._numbers)}"
        scratch = _MySQLScratch(self, name, table)
        self._open.add(name)
        try:
            self.administer(
                f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4",
                f"CREATE USER IF NOT EXISTS {self._account(name)} IDENTIFIED BY '{scratch.password}'",
                f"GRANT {PRIVILEGES} ON {name}.* TO {self._account(name)}",
            )
            scratch.make()
        except (DatabaseFault, DatabaseUnavailable):
            scratch.close()
            raise
        self._usable = True  # from now on, a failure is one of the moment
        return scratch

    def close(self) -> None:
        """Remove what is left, and disconnect; see :meth:`SQLEngine.close`."""
        with self._lock:
            if self._holder is not None:
                with suppress(DBAPIError):  # the server is gone; the next start removes it
                    for name in self._open.copy():
                        self._drop(self._holder, name)
                        self._open.discard(name)
            self._disconnect()

    def hold(self) -> str:
        """Return the owner's name, having seen that it holds its lock: a new one after each loss of the server.

        Waits for a server that was there before.

        Raises:
            DatabaseUnavailable: if it was never there, or refuses.
            DatabaseFault: if it does not come back in time.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self._lock:
                    return self._hold()
            except (DBAPIError, DatabaseFault) as error:
                if not self._usable or time.monotonic() > deadline:
                    raise (self._failure(error) if isinstance(error, DBAPIError) else error) from error
            time.sleep(0.2)

    def administer(self, *statements: str) -> None:
        """Run statements with the engine's own account.

        Raises:
            DatabaseUnavailable: if the server refuses, and has never done this before.
            DatabaseFault: if it went away, or has no room.
        """
        assert self._admin is not None
        try:
            with self._admin.connect() as connection:
                for statement in statements:
                    connection.exec_driver_sql(statement)
        except DBAPIError as error:
            raise self._failure(error) from error

    def drop(self, name: str) -> None:
        """Remove a schema and its account; where the server is gone, the next :meth:`hold` does."""
        self._open.discard(name)
        assert self._admin is not None
        with suppress(DBAPIError), self._admin.connect() as connection:
            self._drop(connection, name)

    def kill(self, thread: int) -> None:
        """End a connection by its number, if it is still there."""
        assert self._admin is not None
        with suppress(DBAPIError), self._admin.connect() as connection:
            connection.exec_driver_sql(f"KILL {thread}")

    def login(self, name: str, password: str, *, renewed: bool = False) -> BoundedConnection:
        """Connect as a scratch account; its password is renewed where the SQL has changed it.

        Raises:
            DatabaseFault: if the server went away.
        """
        assert self._admin is not None
        url = self._url.set(username=name, password=password)
        arguments, theirs = self._admin.dialect.create_connect_args(url)
        options = {
            **theirs,
            "client_flag": CLIENT.MULTI_STATEMENTS,
            **self._transport(),
            "read_timeout": self.options.seconds + HANG_SECONDS,
            "init_command": self._setup,
            "local_infile": False,
        }
        try:
            return BoundedConnection(*arguments, **options)
        except pymysql.OperationalError as error:
            if error.args[0] != _DENIED or renewed:
                raise DatabaseFault(f"the database server went away: {error}") from error
        self.administer(f"ALTER USER {self._account(name)} IDENTIFIED BY '{password}'")
        return self.login(name, password, renewed=True)

    def _failure(self, error: DBAPIError) -> DatabaseFault | DatabaseUnavailable:
        if self._usable:
            return DatabaseFault(f"the database server failed: {error.orig}")
        return DatabaseUnavailable(
            f"the database server at {self._url.render_as_string()} cannot be used ({error.orig}): engine must "
            "name a server that runs, and an account with the rights that docs/tasks/database.md lists"
        )

    def _locate(self) -> URL:
        """Return where the server is; called anew after each loss."""
        return self._url

    def _transport(self) -> dict[str, Any]:
        # To set TLS up takes longer than most statements, and a local socket has no use for it.
        local = {"ssl_disabled": True} if "unix_socket" in self._url.query else {}
        return {"connect_timeout": HANG_SECONDS, **local}

    def _hold(self) -> str:
        if self._holder is not None:
            with suppress(DBAPIError):
                mine = self._holder.exec_driver_sql(f"SELECT IS_USED_LOCK('{self._owner}') = CONNECTION_ID()")
                if mine.scalar() == 1:
                    return self._owner
        self._disconnect()
        self._url = self._locate()
        self._admin = create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            execution_options={"no_parameters": True},  # a % is a %
            pool_pre_ping=True,
            max_overflow=-1,
            connect_args={
                **self._transport(),
                "read_timeout": PATIENCE_SECONDS,
                "init_command": f"SET lock_wait_timeout={LOCK_SECONDS}, innodb_lock_wait_timeout={LOCK_SECONDS}",
            },
        )
        self._holder = self._admin.connect()
        owner = f"cyqd{secrets.token_hex(4)}"
        self._holder.exec_driver_sql("SET wait_timeout = 31536000")  # the lock lives as long as the connection
        self._holder.exec_driver_sql(f"SELECT GET_LOCK('{owner}', 0)")
        self._host = str(self._holder.exec_driver_sql("SELECT SUBSTRING_INDEX(USER(), '@', -1)").scalar())
        mariadb = self._admin.dialect.is_mariadb  # type: ignore[attr-defined]
        seconds = self.options.seconds
        limit = f"max_statement_time = {seconds}" if mariadb else f"max_execution_time = {round(1000 * seconds)}"
        self._setup = f"SET sql_select_limit = {self.options.shown}, {limit}"
        if self.options.mode is not None:
            self._setup += f", sql_mode = '{pymysql.converters.escape_string(self.options.mode)}'"
        links = self._holder.exec_driver_sql("SHOW VARIABLES LIKE 'have_symlink'").fetchone()
        if links is not None and links[1] == "YES":  # MariaDB; MySQL knows the folders that it may use
            raise DatabaseUnavailable(
                f"the database server at {self._url.render_as_string()} lets any account write files with DATA "
                "DIRECTORY: start it with --skip-symbolic-links"
            )
        self._owner = owner
        self._reap(self._holder)
        return owner

    def _disconnect(self) -> None:
        if self._holder is not None:
            self._holder.invalidate()
            self._holder.close()
            self._holder = None
        if self._admin is not None:
            self._admin.dispose()

    def _reap(self, connection: Connection) -> None:
        """Remove what dead owners left, and what this one could not remove while the server was gone."""
        names = connection.exec_driver_sql(
            f"SELECT schema_name FROM information_schema.schemata WHERE schema_name REGEXP '{_NAME}' "
            f"UNION SELECT user FROM mysql.user WHERE user REGEXP '{_NAME}'"
        ).scalars()
        for name in set(names.all()) - self._open:
            owner = re.match(_NAME, name)
            if owner and connection.exec_driver_sql(f"SELECT IS_FREE_LOCK('{owner[1]}')").scalar() == 1:
                with suppress(DBAPIError):  # something holds it; whoever comes next tries again
                    self._drop(connection, name)

    def _drop(self, connection: Connection, name: str) -> None:
        threads = connection.exec_driver_sql(f"SELECT id FROM information_schema.processlist WHERE user = '{name}'")
        for thread in threads.scalars().all():
            with suppress(DBAPIError):  # it has ended
                connection.exec_driver_sql(f"KILL {thread}")
        if self._alone:  # a prepared transaction outlives its connection, and does not say whose it is
            for form, length, _, data in connection.exec_driver_sql("XA RECOVER").all():
                parts = f"X'{data[:length].hex()}', X'{data[length:].hex()}', {form}"
                with suppress(DBAPIError):  # another thread was faster
                    connection.exec_driver_sql(f"XA ROLLBACK {parts}")
        for host in (
            connection.exec_driver_sql(f"SELECT host FROM mysql.user WHERE user = '{name}'").scalars().all()
        ):
            connection.exec_driver_sql(f"DROP USER IF EXISTS '{name}'@'{host}'")
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")

    def _account(self, name: str) -> str:
        return f"'{name}'@'{self._host}'"


class _MySQLScratch(Scratch):
    def __init__(self, server: MySQL, name: str, table: Table) -> None:
        self.server = server
        self.name = name
        self.table = table
        self.password = secrets.token_hex(16)

    def make(self) -> None:
        """Make the table, as far as it can be made.

        Raises:
            DatabaseFault: if that failed for another reason than the class Table names.
        """
        table, columns = quote(self.table.name), [quote(name) for name in self.table.columns]
        values = [value for row in self.table.rows for value in row]
        try:
            self._query(f"CREATE TABLE {table} ({','.join(f'{name} TEXT' for name in columns)})")
            if self.table.rows and {len(row) for row in self.table.rows} == {len(columns)}:
                marks = ",".join([f"({','.join(['%s'] * len(columns))})"] * len(self.table.rows))
                self._query(f"INSERT INTO {table.replace('%', '%%')} VALUES {marks}", values)
        except SQLError as error:
            if error.state[:2] not in _REFUSED:
                raise DatabaseFault(f"the problem's table could not be made: {error}") from error

    def execute(self, sql: str) -> str:
        try:
            text = str(self._query(sql))
        except SQLError as error:
            text = str(error)
        # AgentBench names the database after the table; besides, a name of chance would change what models reply.
        return self.server.options.show(text.replace(self.name, self.table.name))

    def table_hash(self) -> str | None:
        columns = ",".join(quote(name) for name in self.table.columns)
        rows = f"SELECT SUBSTRING(MD5(CONCAT_WS(',', {columns})), 1, 5) AS h FROM {quote(self.table.name)}"
        try:
            found: str | None = self._query(
                f"SELECT MD5(GROUP_CONCAT(h ORDER BY h)) FROM ({rows}) AS r", seconds=JUDGING_SECONDS
            )[0][0]
        except SQLError:
            return None
        return found

    def close(self) -> None:
        self.server.drop(self.name)

    def _query(
        self, sql: str, values: Sequence[str] | None = None, *, seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Run SQL in a session of its own and return its first statement's rows.

        Raises:
            SQLError: if the SQL failed.
            DatabaseFault: if the server went away.
        """
        owner = self.server.hold()
        if not self.name.startswith(owner):
            raise DatabaseFault("the database server was started again, and what is on it is given up")
        connection = self.server.login(self.name, self.password)
        try:
            with limited(seconds or self.server.options.seconds, lambda: self.server.kill(connection.thread_id())):
                return query(connection, self.name, sql, values)
        except ConnectionError as error:
            if self.server.hold() != owner:
                raise DatabaseFault(f"the database server went away: {error}") from error
            raise SQLError(str(error)) from error  # the SQL ended its own connection
        finally:
            if connection.open:
                connection.close()
