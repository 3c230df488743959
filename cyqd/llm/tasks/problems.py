"""Problems: reading them from JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

_ROLES = ("system", "user", "assistant")


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


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, record) for each line that is not blank.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        ValueError: if a line is no JSON object with a text ``id`` of its own and a ``prompt``, or there are fewer
            than two.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no problems at {path}: expected a JSONL file, one problem a line (docs/data.md)")
    seen: dict[str, str] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: no valid JSON ({error})") from None
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected a JSON object, got {type(record).__name__}")
            require(record, where, id=str, prompt=(str, list))
            if record["id"] in seen:
                raise ValueError(
                    f"{where}: the id {record['id']!r} is taken by {seen[record['id']]}; ids are unique"
                )
            seen[record["id"]] = f"line {number}"
            yield where, record
    if len(seen) < 2:
        raise ValueError(f"{path}: found {len(seen)} problems; an even split needs at least 2")


def require(record: Mapping[str, Any], where: str, **types: type | tuple[type, ...]) -> None:
    """Raise ValueError unless ``record`` has each key, with a value of its type that is not empty."""
    for key, kind in types.items():
        if key not in record:
            raise ValueError(f"{where}: the key {key!r} is missing; there are {', '.join(record) or 'none'}")
        if not isinstance(record[key], kind) or not record[key]:
            kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{where}: {key!r} must be a {kinds} that is not empty, got {record[key]!r:.60}")


def messages_of(prompt: str | Sequence[Any], system: str | None = None) -> tuple[Message, ...]:
    """Return the dialogue up to the first reply: a text is one user message; ``system`` goes before all.

    Raises:
        ValueError: if an item of ``prompt`` is no message, or the last one is not the user's.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    for message in messages:
        if not (
            isinstance(message, dict)
            and message.get("role") in _ROLES
            and isinstance(message.get("content"), str)
            and len(message) == 2
        ):
            raise ValueError(
                f"'prompt' must hold messages with a role of {_ROLES} and a content, got {message!r:.60}"
            )
    if messages[-1]["role"] != "user":
        raise ValueError(f"'prompt' must end with a user message, got one of {messages[-1]['role']!r}")
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return tuple(messages)
