"""Scratch databases on every engine, and what hostile SQL gets from them."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest

from cyqd.llm.environments.containers import DockerUnavailable, docker_client, reap
from cyqd.llm.environments.mysql import JUDGING_SECONDS
from cyqd.llm.environments.sql import (
    DatabaseFault,
    DatabaseUnavailable,
    Scratch,
    SQLEngine,
    SQLOptions,
    Table,
    sql_engine,
)

from .sql_servers import container_url, own_server, server_url

SECRET = "SECRET-5c1e"
PETS = Table("pets", ("name", "age"), (("bo", "3"), ("cy", "7"), ("dée", "7")))
OPTIONS = SQLOptions(seconds=1.5)
ENGINES = {"sqlite": lambda: "sqlite://", "mysql": server_url, "docker": container_url}
MARKS = {"sqlite": "sandbox", "mysql": "mysql", "docker": "docker"}


def engines(*names: str) -> list[object]:
    return [pytest.param(name, marks=getattr(pytest.mark, MARKS[name]), id=name) for name in names]


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[SQLEngine]:
    made = sql_engine(ENGINES[request.param](), OPTIONS)
    yield made
    made.close()


@pytest.fixture
def scratch(engine: SQLEngine) -> Iterator[Scratch]:
    made = engine.open(PETS)
    yield made
    made.close()


def expected_hash(rows: Sequence[Sequence[str | None]]) -> str:
    """AgentBench's hash, from its definition."""
    digests = sorted(
        hashlib.md5(",".join(value for value in row if value is not None).encode()).hexdigest()[:5] for row in rows
    )
    return hashlib.md5(",".join(digests).encode()).hexdigest()


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


every_engine = pytest.mark.parametrize("engine", engines("sqlite", "mysql", "docker"), indirect=True)
both_kinds = pytest.mark.parametrize("engine", engines("sqlite", "mysql"), indirect=True)


@every_engine
def test_rows_are_shown_as_python_shows_them(scratch: Scratch) -> None:
    assert scratch.execute("SELECT * FROM pets") == "[('bo', '3'), ('cy', '7'), ('dée', '7')]"
    assert scratch.execute("SELECT COUNT(*), NULL, 1.5e0 FROM pets;") == "[(3, None, 1.5)]"
    assert scratch.execute("SELECT name FROM pets WHERE name LIKE '%y' AND age = 7") == "[('cy',)]"
    assert scratch.execute("SELECT name FROM pets WHERE name = 'DEE'") == "[('dée',)]"  # neither case nor accents
    assert scratch.execute("UPDATE pets SET age = 4 WHERE name = 'bo'") == "[]"
    assert scratch.execute("SELECT age FROM pets") == "[('4',), ('7',), ('7',)]"
    assert "kinds" in scratch.execute("SELECT * FROM kinds")


@both_kinds
def test_long_answers_are_cut(scratch: Scratch) -> None:
    shown = scratch.execute("SELECT a.name FROM pets a, pets b, pets c, pets d, pets e, pets f")
    assert len(shown) == 800 + len("[TRUNCATED]")
    assert shown.startswith("[('bo',), ")
    assert shown.endswith("[TRUNCATED]")
    assert len(scratch.execute(f"SELECT '{'x' * 793}'")) == 800  # with [('',)]


@both_kinds
def test_a_block_runs_as_one_transaction_in_a_session_of_its_own(scratch: Scratch) -> None:
    before = scratch.table_hash()
    assert scratch.execute("SELECT name FROM pets WHERE name = ';'; DELETE FROM pets WHERE age = '3'") == "[]"
    after = scratch.table_hash()
    assert after == expected_hash(PETS.rows[1:]) != before
    assert "nosuch" in scratch.execute("DELETE FROM pets; SELECT nosuch FROM pets")
    assert scratch.table_hash() == after
    assert scratch.execute("DELETE FROM pets") == "[]"
    assert scratch.table_hash() is None


@pytest.mark.mysql
@pytest.mark.parametrize("engine", engines("mysql"), indirect=True)
def test_mysqls_messages_are_its_own_connectors(scratch: Scratch) -> None:
    assert scratch.execute("SELECT age FROM pet") == "1146 (42S02): Table 'pets.pet' doesn't exist"
    assert scratch.execute("SELECT ag FROM pets").startswith("1054 (42S22): Unknown column 'ag'")
    assert scratch.execute("SELEC") == scratch.execute("SELEC")
    assert scratch.execute("SELECT DATABASE()") == "[('pets',)]"


@every_engine
@pytest.mark.parametrize(
    "name",
    ["Tie no", 'a "b"', "a `b`", "it's", "50 % ( %s )", "größe 大", "select", "a;b--", "\\", "x" * 64],
)
def test_any_name_will_do(engine: SQLEngine, name: str) -> None:
    table = Table(name, (name, "b", "é"), ((name, "%s", "\\'"), ("", "NULL", "大")))
    made = engine.open(table)
    assert made.execute(f"SELECT {quoted(name)} FROM {quoted(name)}") == str([(name,), ("",)])
    assert made.table_hash() == expected_hash(table.rows)
    assert made.execute(f"INSERT INTO {quoted(name)} VALUES ('1', NULL, '3')") == "[]"
    assert made.table_hash() == expected_hash([*table.rows, ("1", None, "3")])
    made.close()


@every_engine
def test_databases_of_one_table_name_do_not_meet(engine: SQLEngine) -> None:
    made = [engine.open(PETS) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        sql = [f"UPDATE pets SET age = '{i}'" for i in range(4)]
        assert list(threads.map(lambda one, change: one.execute(change), made, sql)) == ["[]"] * 4
    hashes = [one.table_hash() for one in made]
    assert hashes == [expected_hash([(name, str(i)) for name, _ in PETS.rows]) for i in range(4)]
    for one in made:
        one.close()


@both_kinds
@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (Table("t", ("a", "b", "A"), (("1", "2", "3"),)), None),
        (Table("t", ("a", "b"), (("1", "2"), ("3",))), "[]"),
        (Table("t", ("a", "b"), ()), "[]"),
    ],
)
def test_a_table_that_cannot_be_made_is_missing_or_empty(
    engine: SQLEngine, table: Table, shown: str | None
) -> None:
    made = engine.open(table)
    assert (made.execute("SELECT * FROM t") == shown) == (shown is not None)
    assert made.table_hash() is None
    assert made.execute("SELECT 1") == "[(1,)]"
    made.close()


# Hostile SQL


@pytest.fixture
def bait() -> Iterator[Path]:
    """A secret file, which everybody may read, alone in a folder that everybody may write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        file = Path(folder, "file")
        file.write_text(SECRET)
        file.chmod(0o666)
        yield file
        assert os.listdir(folder) == ["file"]
        assert file.read_text() == SECRET


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


@pytest.mark.parametrize("engine", engines("sqlite"), indirect=True)
@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("ATTACH '{file}' AS other", "not authorized"),
        ("DETACH main", "not authorized"),
        ("VACUUM INTO '{file}.out'", "cannot VACUUM"),
        ("PRAGMA journal_mode = DELETE", "not authorized"),
        ("PRAGMA writable_schema = 1", "not authorized"),
        ("PRAGMA temp_store_directory = '/'", "not authorized"),
        ("SELECT load_extension('{file}')", "not authorized"),
        ("SELECT readfile('{file}')", "no such function"),
        ("SELECT writefile('{file}.out', 'x')", "no such function"),
        (f"{ENDLESS} SELECT COUNT(*) FROM n", "interrupted"),
        (f"{ENDLESS} SELECT x FROM n", "[TRUNCATED]"),
        (f"{ENDLESS} INSERT INTO pets SELECT x, x FROM n", "interrupted|out of memory|full"),
        ("SELECT zeroblob(1000000000)", "out of memory"),
        ("SELECT hex(zeroblob(400000000))", "out of memory|too big|MemoryError"),
        ("SELECT randomblob(1e9), randomblob(1e9)", "out of memory"),
        ("SELECT '" + "(" * 100_000, "unrecognized token"),
        ("SELECT " + "(" * 10_000 + "1" + ")" * 10_000, "stack overflow|too deep|depth"),
        ("BEGIN; COMMIT; ROLLBACK; SELECT 1", r"\[\]"),
        ("\0", "null character"),
        ("SELECT '\ud800'", "surrogates"),
    ],
)
def test_hostile_sql_is_contained_on_sqlite(scratch: Scratch, bait: Path, sql: str, shown: str) -> None:
    before = scratch.table_hash()
    started = time.monotonic()
    answer = scratch.execute(sql.replace("{file}", str(bait)))
    assert time.monotonic() - started < OPTIONS.seconds + 4
    assert re.search(shown, answer), answer
    assert SECRET not in answer
    assert scratch.table_hash() == before
    assert scratch.execute("SELECT COUNT(*) FROM pets") == "[(3,)]"


@pytest.mark.parametrize("engine", engines("mysql"), indirect=True)
@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT LOAD_FILE('{file}')", r"None"),
        ("SELECT 1 INTO OUTFILE '{file}.out'", "1227|1290"),
        ("LOAD DATA INFILE '{file}' INTO TABLE pets", "1045"),
        ("LOAD DATA LOCAL INFILE '{file}' INTO TABLE pets", "4166|1148|3948"),
        ("SHOW DATABASES", "information_schema"),
        ("SELECT schema_name FROM information_schema.schemata", "information_schema"),
        ("SELECT * FROM {victim}.pets", "1142"),
        ("DROP DATABASE {victim}", "1044"),
        ("DROP TABLE {victim}.pets", "1142"),
        ("CREATE VIEW other AS SELECT * FROM {victim}.pets", "1142"),
        ("SELECT user, authentication_string FROM mysql.user", "1142"),
        ("SHOW PROCESSLIST", "SHOW PROCESSLIST"),
        ("KILL {holder}", "1095|1094"),
        ("KILL CONNECTION_ID()", "1927|1317|2013"),
        ("SHUTDOWN", "1227"),
        ("SET GLOBAL max_connections = 1", "1227"),
        ("GRANT ALL ON *.* TO CURRENT_USER()", "1045|1044|1227"),
        ("CREATE USER intruder", "1227"),
        ("CREATE DATABASE intruder", "1044"),
        ("CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO DELETE FROM pets", "1044"),
        ("CREATE PROCEDURE p() SELECT 1", "1044"),
        ("CREATE FUNCTION f RETURNS INTEGER SONAME 'f.so'", "1044|1142|1046"),
        ("INSTALL PLUGIN p SONAME 'p.so'", "1142"),
        ("SET PASSWORD = PASSWORD('mine')", r"\[\]"),
        ("LOCK TABLES pets WRITE", r"\[\]"),
        ("FLUSH TABLES WITH READ LOCK", "1227"),
        ("SET max_statement_time = 0; SELECT SLEEP(1000)", "time limit"),
        ("SELECT GET_LOCK('cyqd', 1000), SLEEP(1000)", "time limit|max_statement_time"),
        ("SET max_statement_time = 0; SELECT BENCHMARK(1000000000000, MD5('x'))", "time limit"),
        (f"SET max_statement_time = 0, max_recursive_iterations = {2**32 - 1}; {ENDLESS} SELECT 1 FROM n", "limit"),
        ("SELECT * FROM information_schema.collations a, information_schema.collations LIMIT 99999", "large|limit"),
        ("SELECT " + ",".join(["REPEAT('x', 16000000)"] * 20), "too large|time limit"),
        ("SELECT '\ud800'", "surrogates"),
        ("XA START 'a'; INSERT INTO pets VALUES ('x', 1); XA END 'a'; XA PREPARE 'a'", "not supported"),
        ("CREATE TABLE d (a INT) ENGINE=MyISAM DATA DIRECTORY='{folder}'; SHOW WARNINGS", ""),
        ("CREATE TABLE d (a INT) ENGINE=InnoDB DATA DIRECTORY='{folder}'", ""),
    ],
)  # fmt: skip
def test_hostile_sql_is_contained_on_mysql(
    engine: SQLEngine, scratch: Scratch, bait: Path, sql: str, shown: str
) -> None:
    victim = engine.open(PETS)
    holder = engine._holder.exec_driver_sql("SELECT CONNECTION_ID()").scalar()  # type: ignore[attr-defined]
    told = "{victim}" in sql
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)  # the server may write here
    names = {"{folder}": str(folder), "{file}": str(bait), "{victim}": victim.name, "{holder}": str(holder)}  # type: ignore[attr-defined]
    for mark, name in names.items():
        sql = sql.replace(mark, name)
    started = time.monotonic()
    answer = scratch.execute(sql)
    assert time.monotonic() - started < OPTIONS.seconds + 3
    assert re.search(shown, answer), answer
    assert SECRET not in answer
    assert told or victim.name not in answer  # type: ignore[attr-defined]
    for one in victim, scratch:
        assert one.table_hash() == expected_hash(PETS.rows)
        assert one.execute("SELECT COUNT(*) FROM pets") == "[(3,)]"
    victim.close()
    assert list(folder.iterdir()) == []
    folder.rmdir()


@pytest.mark.mysql
def test_what_holds_a_schema_on_to_does_not_stop_the_next_run() -> None:
    with own_server() as server:
        first = sql_engine(server.url, OPTIONS)
        scratch = first.open(PETS)
        name = scratch.name  # type: ignore[attr-defined]
        with pymysql.connect(unix_socket=f"{server.folder}/sql", user="root", autocommit=True) as connection:
            cursor = connection.cursor()  # as a statement that escaped the client's eye would
            for sql in (
                "XA START 'a'",
                f"INSERT INTO {name}.pets VALUES ('x', '1')",
                "XA END 'a'",
                "XA PREPARE 'a'",
            ):
                cursor.execute(sql)
        scratch.close()
        first.close()
        second = sql_engine(server.url, OPTIONS)
        assert second.open(PETS).table_hash() == expected_hash(PETS.rows)
        second.close()


@pytest.mark.mysql
def test_a_server_that_writes_files_for_anyone_is_refused() -> None:
    with (
        own_server("--symbolic-links") as server,
        pytest.raises(DatabaseUnavailable, match="--skip-symbolic-links"),
    ):
        sql_engine(server.url, OPTIONS).open(PETS)


@both_kinds
def test_a_table_swapped_for_a_view_is_judged_in_time(scratch: Scratch) -> None:
    scratch.execute("SET max_recursive_iterations = 4294967295")
    view = f"CREATE VIEW pets(name, age) AS {ENDLESS} SELECT a.x, b.x FROM n AS a, n AS b"
    assert scratch.execute(f"DROP TABLE pets; {view}") == "[]"
    started = time.monotonic()
    assert scratch.table_hash() is None
    assert time.monotonic() - started < max(OPTIONS.seconds, JUDGING_SECONDS) + 3


@pytest.mark.parametrize("engine", engines("mysql"), indirect=True)
def test_the_schema_itself_may_be_dropped_and_made_again(scratch: Scratch) -> None:
    name = scratch.name  # type: ignore[attr-defined]
    assert scratch.execute(f"DROP DATABASE {name}; CREATE DATABASE {name}") == "[]"
    assert scratch.table_hash() is None
    assert scratch.execute(f"DROP DATABASE {name}") == "[]"
    assert scratch.execute("SELECT 1") == "1049 (42000): Unknown database 'pets'"


# Engines that are not there, and what is left behind


@pytest.mark.parametrize("url", ["sqlite:///file.db", "postgresql://a@b/", "mysql", "mysql:x", "", "/var/lib"])
def test_a_bad_url_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=f"engine must be .*{url!r}"):
        sql_engine(url, OPTIONS)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"root:\*\*\*@localhost:1.* cannot be used.*refused"):
        sql_engine("mysql+pymysql://root:hush@localhost:1/", OPTIONS).open(PETS)


@pytest.mark.docker
def test_an_image_that_is_not_there_is_named() -> None:
    container_url()
    with pytest.raises(DockerUnavailable, match="docker pull nosuch:1"):
        sql_engine("docker:nosuch:1", OPTIONS).open(PETS)


def die_with_a_database(url: str) -> list[str]:
    """Be killed while a database is open; return the container and the folder that it was in, if it was in one."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        engine = sql_engine(url, OPTIONS)
        engine.open(PETS).execute("SELECT 1")
        sender.send([engine._container.id, str(engine._folder.path)] if "docker" in url else [])  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    return receiver.recv()


@pytest.mark.mysql
def test_leftovers_of_the_dead_are_removed_those_of_the_living_are_not() -> None:
    with own_server() as server:
        living = sql_engine(server.url, OPTIONS)
        kept = living.open(PETS)
        die_with_a_database(server.url)
        assert len(server.leftovers()) == 4  # schema and account of each
        following = sql_engine(server.url, OPTIONS)
        following.open(PETS).close()
        assert len(server.leftovers()) == 2
        assert kept.table_hash() == expected_hash(PETS.rows)
        living.close()
        assert server.leftovers() == []
        following.close()


@pytest.mark.mysql
def test_a_server_that_restarts_is_waited_for_and_left_clean() -> None:
    with own_server() as server, ThreadPoolExecutor(1) as threads:
        engine = sql_engine(server.url, SQLOptions(seconds=20))
        first, second = engine.open(PETS), engine.open(PETS)
        running = threads.submit(first.execute, "SELECT SLEEP(10)")
        server.wait_for("SELECT SLEEP", 1)
        server.kill()
        second.close()  # cannot remove its database now
        server.start()
        with pytest.raises(DatabaseFault, match="went away"):
            running.result()
        with pytest.raises(DatabaseFault, match="given up"):  # another process may be removing it
            first.table_hash()
        first.close()
        assert engine.open(PETS).table_hash() == expected_hash(PETS.rows)
        engine.close()
        assert server.leftovers() == []


@pytest.mark.docker
def test_a_killed_container_is_replaced_and_an_abandoned_one_reaped() -> None:
    url = container_url()
    engine = sql_engine(url, OPTIONS)
    scratch = engine.open(PETS)
    abandoned, folder = die_with_a_database(url)
    assert Path(folder).exists()
    engine._container.kill()  # type: ignore[attr-defined]
    with pytest.raises(DatabaseFault):
        scratch.execute("SELECT 1")
    scratch.close()
    assert engine.open(PETS).table_hash() == expected_hash(PETS.rows)  # in a new container
    assert not Path(folder).exists()
    reap(docker_client())
    container = engine._container.id  # type: ignore[attr-defined]
    assert container in all_containers()
    assert abandoned not in all_containers()
    engine.close()
    assert container not in all_containers()


def all_containers() -> set[str]:
    return {container["Id"] for container in docker_client().api.containers(all=True)}
