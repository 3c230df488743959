"""Reading AgentBench's operating-system problems from the files that they are published in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cyqd.llm.tasks.problems import require

IMAGE = "local-os/default"  # where a problem names none
LANGUAGES = ("bash", "python")


def read_os_problems(path: Path, scripts: Path | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (where it is, id, problem) for every problem.

    A problem has ``description``, ``image``, ``init`` (a list of scripts), ``start`` and ``example`` (a script or
    None), and one of ``check`` (a list of scripts, None for the example) and ``match`` (an object). A script is an
    object with ``language`` and ``code``.

    Args:
        path: AgentBench's folder ``data/os_interaction``, with ``data/dev.json``, ``data/N/*.json`` and
            ``scripts``; or one file of problems, JSON or JSONL, in its form or with all scripts inlined and an id.
        scripts: the folder that a single file's scripts are in; by default the file's own. It is AgentBench's
            ``script_dir`` (v0.2, configs/tasks/os.yaml).

    Raises:
        FileNotFoundError: if there is no such file or folder, or a script is missing.
        ValueError: if a file is malformed, or ids repeat.
    """
    if path.is_dir():
        files = [(path / "data" / "dev.json", path / "scripts" / "dev", "dev-")]
        for file in sorted(path.glob("data/[0-9]*/*.json")):
            part = file.parent.name
            files.append((file, path / "scripts" / part, f"std-{int(part):03d}-"))
        files = [entry for entry in files if entry[0].is_file()]
        if not files:
            raise FileNotFoundError(f"{path}: expected AgentBench's data/os_interaction, with data/*/*.json in it")
    elif path.is_file():
        files = [(path, scripts or path.parent, "")]
    else:
        raise FileNotFoundError(f"no problems at {path}: expected a JSON or JSONL file, or data/os_interaction")
    seen: dict[str, str] = {}
    for file, folder, prefix in files:
        for number, (where, record) in enumerate(_records(file)):
            name = record.get("id", f"{prefix}{file.stem}-{number:05d}")
            if not isinstance(name, str):
                raise ValueError(f"{where}: an id must be a text, got {name!r:.60}")
            if name in seen:
                raise ValueError(f"{where}: the id {name!r} is taken by {seen[name]}; ids are unique")
            seen[name] = where
            try:
                yield where, name, _problem(record, folder)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    if len(seen) < 2:
        raise ValueError(f"{path}: found {len(seen)} problems; an even split needs at least 2")


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n") if file.suffix == ".jsonl" else [text]
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}" if len(lines) > 1 else str(file)
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: no valid JSON ({error})") from None
        for place, record in enumerate(found if isinstance(found, list) else [found]):
            shown = f"{where}, problem {place}" if isinstance(found, list) else where
            if not isinstance(record, dict):
                raise ValueError(f"{shown}: expected a JSON object, got {type(record).__name__}")
            yield shown, record


def _problem(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if "evaluation" in record:  # as AgentBench has it
        create = record.get("create")
        create = create if isinstance(create, dict) else {}  # some are a list, which means nothing
        if not isinstance(record["evaluation"], dict):
            raise ValueError(f"'evaluation' must be an object, got {record['evaluation']!r:.60}")
        record = {
            **record["evaluation"],
            "description": record.get("description"),
            "start": record.get("start"),
            **create,
        }
    require(record, "problem", description=str)
    match, check = record.get("match"), record.get("check")
    if (match is None) == (check is None):
        raise ValueError("exactly one of 'match' and 'check' is needed")
    if isinstance(match, str):
        match = {"answer": match, "strip": True}
    if match is not None and not (isinstance(match, dict) and ("answer" in match or "regex" in match)):
        raise ValueError(f"'match' must be a text or have an 'answer' or a 'regex', got {match!r:.60}")
    for key, value in (match or {}).items():
        if key in ("answer", "regex") and not isinstance(value, str):
            raise ValueError(f"'match' needs a text as its {key}, got {value!r:.60}")
    try:
        re.compile((match or {}).get("regex", ""))
    except re.error as error:
        raise ValueError(f"'match' has no valid regex ({error}): {match!r:.60}") from None
    example = _script(record.get("example"), folder)
    checks = None if check is None else [_script(one, folder) for one in _list(check)]
    if checks is not None and (not checks or (None in checks and example is None)):
        raise ValueError("'check' needs a script, and an 'example' where one of its entries is null")
    return {
        "description": record["description"],
        "image": record.get("image") or IMAGE,
        "init": [script for one in _list(record.get("init")) if (script := _script(one, folder))],
        "start": _script(record.get("start"), folder),
        "example": example,
        "check": checks,
        "match": match,
    }


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _script(script: Any, folder: Path) -> dict[str, str] | None:
    if script is None:
        return None
    if isinstance(script, str):
        script = {"code": script}
    if not isinstance(script, dict) or not isinstance(script.get("code", script.get("file")), str):
        raise ValueError(f"a script must be a text or have a 'code' or a 'file', got {script!r:.60}")
    language = script.get("language", "bash")
    if language not in LANGUAGES:
        raise ValueError(f"a script's language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    code = script.get("code")
    if code is None:
        file = folder / script["file"]
        if not file.is_file():
            raise FileNotFoundError(f"no script at {file}: give the folder of the scripts as 'scripts'")
        code = file.read_text(encoding="utf-8")
    return {"language": language, "code": code}
