"""Files of the public coding benchmarks: EvalPlus (MBPP+, HumanEval+), MBPP and HumanEval."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from cyqd.llm.tasks.problems import Message, require

Record = Mapping[str, Any]
Style = Literal["chat", "instruction"]

_PROMPTS: dict[str, list[Message]] = json.loads(
    files("cyqd.llm.tasks").joinpath("prompts/coding.json").read_text(encoding="utf-8")
)


def records(path: Path) -> Iterator[tuple[str, Record]]:
    r"""Yield (where, record) of a JSONL file or a JSON list, each also gzipped.

    JSONL is split at \n only: other line ends occur inside programs. NaN and Infinity are read as Python's.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        ValueError: if it is neither, or an entry is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no problems at {path}: expected a file of MBPP+, HumanEval+, MBPP or HumanEval (docs/tasks/coding.md)"
        )
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    if text.lstrip().startswith("["):
        entries = [(f"{path}, entry {n}", entry) for n, entry in enumerate(_parse(text, str(path)), start=1)]
    else:
        lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        entries = [(where, _parse(line, where)) for where, line in lines]
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected a JSON object, got {type(entry).__name__}")
        yield where, entry


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: no valid JSON ({error})") from None


def read_problem(record: Record, where: str) -> tuple[str, str, dict[str, Any]]:
    """Recognise a record's format by its keys, and bring it into one form.

    Returns:
        The problem's id; its prompt in EvalPlus's form (a docstring, or the beginning of a program); and the spec,
        which has ``name`` (the function asked for), ``reference`` (a program that solves it), ``head`` (what a
        program may leave out, as the prompt has it), and either ``tests`` (statements), or ``base`` and ``plus``
        (lists of arguments) and ``atol``.

    Raises:
        ValueError: if the format is none of them, or a value is not of its type.
    """
    if "plus_input" in record:
        require(record, where, task_id=str, prompt=str, entry_point=str, canonical_solution=str, base_input=list)
        base, plus = record["base_input"], record["plus_input"] or []  # Mbpp/793 has {} where there is none
        if not all(isinstance(arguments, list) for arguments in [*base, *plus]):
            raise ValueError(f"{where}: 'base_input' and 'plus_input' must be lists of argument lists")
        spec = {
            "base": convert(record["task_id"], base),
            "plus": convert(record["task_id"], plus),
            "atol": float(record.get("atol", 0)),
        }
    elif "entry_point" in record and "test" in record:
        require(record, where, task_id=str, prompt=str, entry_point=str, canonical_solution=str, test=str)
        spec = {"tests": [record["test"], f"check({record['entry_point']})"]}
    elif "code" in record and "test_list" in record:
        return _mbpp(record, where)
    else:
        raise ValueError(
            f"{where}: neither EvalPlus's (plus_input), HumanEval's (entry_point, test) nor MBPP's format (code, "
            f"test_list); there are the keys {', '.join(record) or 'none'}"
        )
    prompt, name = record["prompt"], record["entry_point"]
    spec.update(name=name, reference=prompt + record["canonical_solution"], head=_head(prompt))
    return record["task_id"], prompt, spec


def _mbpp(record: Record, where: str) -> tuple[str, str, dict[str, Any]]:
    text = "text" if "text" in record else "prompt"  # the full file has the one, the sanitized one the other
    require(record, where, task_id=int, code=str, test_list=list, **{text: str})
    if not (names := re.findall(r"^(?:def|class)[ \t]+(\w+)", record["code"], re.MULTILINE)):
        raise ValueError(f"{where}: 'code' defines no function, got {record['code']!r:.60}")
    tests = record["test_list"]
    called = [name for name in names if re.search(rf"\b{name}\s*\(", tests[0])]
    # The setup goes behind the program: that of tasks 367 and 927 needs the program's class.
    spec = {
        "tests": [record.get("test_setup_code", ""), *record.get("test_imports", []), *tests],
        "name": (called or names)[-1],
        "reference": record["code"].replace("\r\n", "\n"),
        "head": "",
    }
    return f"Mbpp/{record['task_id']}", f'"""\n{record[text].strip()}\n{tests[0].strip()}\n"""\n', spec


def _head(prompt: str) -> str:
    """Return what a bare function body continues: the prompt, where it ends inside a function."""
    return prompt if re.search(r"^def ", prompt, re.MULTILINE) else ""


def messages(prompt: str, style: Style) -> list[Message]:
    """Return the conversation up to and with the beginning of the reply.

    Args:
        prompt: in EvalPlus's form.
        style: "chat": as EvalPlus asks chat models; "instruction": as the paper's reference code does, after
            Magicoder. See prompts/README.md.
    """
    parts = {"prompt": prompt.strip()}
    if style == "instruction":
        if _head(prompt):
            style_of = "instruction humaneval"
        else:
            text, mark, assertion = prompt.strip().strip('"').partition("assert")
            text = text.strip()
            parts = {"text": text if text.endswith(".") else f"{text}.", "assertion": (mark + assertion).strip()}
            style_of = "instruction mbpp"
    else:
        style_of = style
    return [{"role": m["role"], "content": m["content"].format(**parts)} for m in _PROMPTS[style_of]]


def convert(task_id: str, inputs: list[Any]) -> list[Any]:
    """Return MBPP+ inputs with the types that JSON lacks: tuples, sets and complex numbers.

    Which task has what is EvalPlus's knowledge (``evalplus/data/mbpp.py``, Apache-2.0).
    """
    dataset, _, number = task_id.partition("/")
    change = _CHANGES.get(int(number)) if dataset == "Mbpp" else None
    return [change(arguments) for arguments in inputs] if change else inputs


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _tuples(items: list[Any]) -> list[Any]:
    return [tuple(item) if isinstance(item, list) else item for item in items]


_BY_CHANGE: list[tuple[Callable[[list[Any]], Any], tuple[int, ...]]] = [
    # every argument is a tuple
    (
        lambda a: [tuple(x) for x in a],
        (
            2,
            116,
            132,
            143,
            222,
            261,
            273,
            394,
            399,
            421,
            424,
            429,
            470,
            560,
            579,
            596,
            616,
            630,
            726,
            740,
            744,
            809,
        ),
    ),
    # every argument is a list of tuples
    (
        lambda a: [[tuple(y) for y in x] for x in a],
        (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    ),
    # every argument is a tuple of tuples
    (lambda a: [tuple(tuple(y) for y in x) for x in a], (259, 401, 445)),
    # the first argument is a list of tuples
    (lambda a: [[tuple(x) for x in a[0]], *a[1:]], (75, 413, 444, 753)),
    # the first argument is a tuple
    (lambda a: [tuple(a[0]), *a[1:]], (250, 307, 405, 446, 617, 720, 763, 808)),
    # the last argument is a tuple
    (lambda a: [*a[:-1], tuple(a[-1])], (106, 750)),
    # all lists are tuples
    (_deep, (580, 615, 791)),
    (lambda a: [tuple(_tuples(a[0]))], (278,)),
    (lambda a: [{key: tuple(x) for key, x in a[0].items()}, *a[1:]], (722,)),
    (lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]], (115,)),
    (lambda a: (float(a[0]), complex(a[1])), (124,)),
    (lambda a: [complex(a[0])], (252,)),
]
_CHANGES = {number: change for change, numbers in _BY_CHANGE for number in numbers}
