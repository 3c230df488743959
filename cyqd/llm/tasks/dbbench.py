"""AgentBench's database task, DB-bench, as CycleQD's reference code scores it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from cyqd.llm.environments.sql import DatabaseFault, Scratch, SQLOptions, Table, sql_engine
from cyqd.llm.tasks.base import Spec, Turn
from cyqd.llm.tasks.live import EnvironmentFault, LiveTask, Session
from cyqd.llm.tasks.problems import Message, Problem

PROMPT = (Path(__file__).parent / "prompts" / "dbbench.txt").read_text(encoding="utf-8")
CATEGORIES = ("SELECT", "INSERT", "UPDATE")
LONGEST_ANSWER = 10_000  # characters; a longer one is not read as a list

# The reference's patterns, the first match of each: an operation needs its first action to be just that.
_ACTION = re.compile(r"Action: (.*)\n")
_SQL = re.compile(r"```sql\n(.*?)\n```", re.DOTALL)
_ANSWER = re.compile(r"\nFinal Answer:(.*)")


class DBBench(LiveTask):
    """Answer questions about a table with SQL, or change the table.

    A reply is an operation (``Action: Operation`` and a block of SQL, which is run and answered) or final: its list
    after ``Final Answer:`` is compared with the label, or what the table holds with the hash of what it should. A
    reply of neither form is final, too. The score is correct / total, as in CycleQD; :attr:`measures` are the
    accuracies of AgentBench's three categories, from which :meth:`derived` has AgentBench's own score.

    Args:
        problems: JSONL file as AgentBench publishes it (``standard.jsonl``, ``dev.jsonl``), or a folder with both,
            which are the paper's; ids are ``_meta.id`` where a line has it, else the file's name and the line's
            number from 0, such as "standard-007".
        engine: where SQL runs: "sqlite://" (in the sandbox), "mysql+pymysql://USER:PASSWORD@HOST/" (a MySQL or
            MariaDB server), "docker" or "docker:IMAGE" (a container of one).
        sql_mode: MySQL's; None leaves the server's own. The default solves one gold statement more than strict
            modes do.
        max_turns: replies; AgentBench's limit is 5 operations, after which one more reply is read for an answer.
        statement_seconds: time for each operation.
        observation_limit: characters of an operation's result; what is longer is cut.

    Raises:
        ValueError: also if ``engine`` is none of these.
    """

    default_name = "database"
    measures = CATEGORIES

    def __init__(
        self,
        problems: Path,
        *,
        engine: str = "sqlite://",
        sql_mode: str | None = "",
        max_turns: int = 6,
        statement_seconds: float = 5.0,
        observation_limit: int = 800,
        **options: Any,
    ) -> None:
        super().__init__(problems, max_turns=max_turns, **options)
        if statement_seconds <= 0 or observation_limit < 1:
            raise ValueError(
                f"task {self.name}: statement_seconds must be positive and observation_limit at least 1, got "
                f"{statement_seconds} and {observation_limit}"
            )
        try:
            self.engine = sql_engine(engine, SQLOptions(statement_seconds, observation_limit, sql_mode))
        except ValueError as error:
            raise ValueError(f"task {self.name}: {error}") from None

    def load(self) -> list[Problem]:
        """Read all problems; warns of tables that no engine takes, as there are in AgentBench's file."""
        files = sorted(self.path.glob("*.jsonl")) if self.path.is_dir() else [self.path]
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"no problems at {self.path}: expected AgentBench's JSONL, or a folder (docs/tasks/database.md)"
            )
        found: dict[str, Problem] = {}
        for path in files:
            # Only "\n" ends a line: the tables' texts hold other line ends.
            for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
                if not line.strip():
                    continue
                where = f"{path}, line {number + 1}"
                try:
                    problem = read_problem(json.loads(line), f"{path.stem}-{number:03d}", self.system)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
                if problem.id in found:
                    raise ValueError(f"{where}: the id {problem.id!r} is taken by a line before; ids are unique")
                found[problem.id] = problem
        if len(found) < 2:
            raise ValueError(f"{self.path}: found {len(found)} problems; an even split needs at least 2")
        if broken := [problem.id for problem in found.values() if not _sound(problem.spec["table"])]:
            warnings.warn(
                f"{self.path}: the tables of {', '.join(broken)} have columns of the same name, or rows of another "
                "width; as in AgentBench, they stay missing or empty",
                stacklevel=2,
            )
        return list(found.values())

    def check_spec(self, spec: Spec) -> None:
        """Nothing is left to check: :func:`read_problem` makes every spec."""

    def open(self, problem: Problem) -> Session:
        """Make the problem's database; see :meth:`LiveTask.open`."""
        with _faults():
            return _Operations(problem.spec, self.engine.open(problem.spec["table"]))

    def close(self) -> None:
        """Close all sessions, and the engine; see :meth:`LiveTask.close`."""
        super().close()
        self.engine.close()

    def gold(self, problem: Problem) -> list[str | Callable[[str], str]]:
        """Return the label as an answer, after the gold statement where the table is to change."""
        answer = f"Action: Answer\nFinal Answer: {problem.spec['label']!r}"
        if problem.spec["md5"] is None:
            return [answer]
        return [f"Action: Operation\n```sql\n{problem.spec['label'][0]}\n```\n", answer]

    def wrong(self, problem: Problem) -> list[str]:
        """Return an answer that is none."""
        return ['Action: Answer\nFinal Answer: ["987654321"]']

    def measures_of(self, problem: Problem) -> Sequence[str]:
        """Return the problem's category."""
        return [problem.spec["category"]]

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Add AgentBench's score, the mean of the three categories' accuracies, where all three have problems."""
        score = {"category_mean": fmean(means.values())} if len(means) == len(CATEGORIES) else {}
        return {**means, **score}


class _Operations(Session):
    def __init__(self, spec: Spec, scratch: Scratch) -> None:
        self.spec = spec
        self.scratch = scratch

    def reply(self, text: str, *, last: bool) -> Turn:
        sql = None if last else operation(text)
        with _faults():
            if sql is not None:
                return Turn(done=False, observation=self.scratch.execute(sql), retried=self.scratch.retried)
            if self.spec["md5"] is None:
                # An operation without SQL ends AgentBench's dialogue with no answer at all.
                good = same_answer(
                    "" if not last and asks_to_operate(text) else final_answer(text), self.spec["label"]
                )
            else:
                good = str([(self.scratch.table_hash(),)]) == self.spec["md5"]
        return Turn(
            done=True,
            score=float(good),
            retried=self.scratch.retried,
            measures={self.spec["category"]: float(good)},
        )

    def close(self) -> None:
        self.scratch.close()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except DatabaseFault as fault:
        raise EnvironmentFault(str(fault)) from fault


def read_problem(record: Any, name: str, system: str | None = None) -> Problem:
    """Return the problem in a line of AgentBench's file.

    Args:
        record: the line's JSON.
        name: its id where it does not bring one.
        system: a system message, if any.

    Raises:
        ValueError: saying which key is wrong, and what was expected.
    """
    try:
        kind, table, question = record["type"][0], record["table"], record["description"]
        changes = kind in ("INSERT", "DELETE", "UPDATE")
        label, md5 = [*map(_text, _list(record["label"]))], _text(record["answer_md5"]) if changes else None
        made = Table(
            _text(table["table_name"]),
            tuple(_text(column["name"]) for column in table["table_info"]["columns"]),
            tuple(tuple(map(str, _list(row))) for row in _list(table["table_info"]["rows"])),
        )
        category = kind if kind in CATEGORIES else "SELECT"
        text = f"{_text(question)}\n{_text(record['add_description'])}"
        name = _text(record.get("_meta", {}).get("id", name))
    except KeyError as error:
        raise ValueError(f"the key {error} of DB-bench's format is missing") from None
    except (TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"this is not DB-bench's format: {error}") from None
    if not label or not made.columns:
        raise ValueError("a label and a column are needed")
    messages: list[Message] = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": text},
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return Problem(name, tuple(messages), {"table": made, "label": label, "md5": md5, "category": category})


def operation(reply: str) -> str | None:
    """Return the SQL that a reply asks to run, on one line as in the reference; None where it asks for none."""
    action, sql = _ACTION.search(reply), _SQL.search(reply)
    return sql[1].strip().replace("\n", " ") if action and action[1] == "Operation" and sql else None


def asks_to_operate(reply: str) -> bool:
    """Return whether a reply's first action is an operation, with SQL or without."""
    action = _ACTION.search(reply)
    return action is not None and action[1] == "Operation"


def final_answer(reply: str) -> str:
    """Return what follows the reply's first ``Final Answer:`` at the start of a line, unparsed; "" without one."""
    found = _ANSWER.search(reply)
    return found[1] if found else ""


def same_answer(answer: str, label: Sequence[str]) -> bool:
    """Return whether a final answer is the label, by AgentBench's rule.

    One item against one: equal as numbers, or else as they are. Otherwise as sets, so that order and repeats do not
    matter. Where the answer is no Python literal that has items, all of it, surrounding space included, is the one
    item. (The reference evaluates the answer as a Python expression, so there ``[1 + 1]`` is ``[2]``.)
    """
    items = _items(answer)
    if len(items) == len(label) == 1:
        try:
            return float(items[0]) == float(label[0])
        except (ValueError, TypeError, OverflowError):
            return bool(items[0] == label[0])
    try:
        return set(items) == set(label)
    except TypeError:  # a list within the list
        return False


def _items(answer: str) -> list[Any]:
    if len(answer) <= LONGEST_ANSWER:
        try:
            return list(ast.literal_eval(answer.strip()))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
    return [answer]


def _sound(table: Table) -> bool:
    names = {name.casefold() for name in table.columns}
    return len(names) == len(table.columns) and all(len(row) == len(names) for row in table.rows)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r:.60}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.60}")
    return value
