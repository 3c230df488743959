"""Writing the demo's problems, training dialogues and starting model from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cyqd.llm.demo.coding import CodingGrammar
from cyqd.llm.demo.database import DatabaseGrammar
from cyqd.llm.demo.grammar import Grammar, Sentence
from cyqd.llm.demo.model import make_model, make_tokenizer
from cyqd.llm.demo.os import OSGrammar
from cyqd.llm.tasks import Coding, Database, OperatingSystem, Problem, SandboxTask

GRAMMARS: tuple[Grammar, ...] = (CodingGrammar(), DatabaseGrammar(), OSGrammar())
TASKS: dict[str, type[SandboxTask]] = {"coding": Coding, "database": Database, "os": OperatingSystem}
PROBLEMS = 640  # a task; half for evolution and half for the test
EXPERT_DIALOGUES = 3840  # 120 steps of 32
BASE_DIALOGUES = 12000
# Share of the base's dialogues that are drawn from the whole grammar: a base that shares no skill with the experts
# breaks when they are merged. These leave it at about half of the problems.
PINCH = {"coding": 0.015, "database": 0.04, "os": 0.015}
SECOND_TURNS = 0.1  # share of an expert's dialogues with a broken reply first
OBSERVATION_LIMIT = 80  # characters; the demo's configs set the same

Dialogue = dict[str, list[dict[str, Any]]]


def generate(out: Path, *, seed: int = 0, grammars: Sequence[Grammar] = GRAMMARS) -> None:
    """Write ``out``/data (problems and training dialogues, JSONL) and ``out``/init (model and tokenizer).

    Everything is a function of the seed but the split into training and evaluation, which depends on each gold
    reply alone: a problem of one seed is trained on under no other either. A grammar's name says which of
    :data:`TASKS` it is for.

    Raises:
        ValueError: if a problem for evaluation occurs in training.
    """
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    easy: dict[str, list[Sentence]] = {}
    pool: dict[str, list[Sentence]] = {}
    experts: dict[str, list[Dialogue]] = {}
    for grammar in tqdm(grammars, desc="demo data", unit="task"):
        rng = random.Random(f"{seed}:{grammar.name}")
        sentences = list(grammar.sentences())
        rng.shuffle(sentences)
        trained = [sentence for sentence in sentences if not sentence.held_out]
        held_out = [sentence for sentence in sentences if sentence.held_out]
        write_jsonl(data / f"{grammar.name}.jsonl", _problems(grammar, held_out, rng))
        pool[grammar.name] = trained
        easy[grammar.name] = [sentence for sentence in trained if sentence.easy]
        task = TASKS[grammar.name](data / f"{grammar.name}.jsonl", observation_limit=OBSERVATION_LIMIT)
        experts[grammar.name] = _expert(grammar, task, trained, rng)
        write_jsonl(data / f"{grammar.name}_train.jsonl", experts[grammar.name])
    rng = random.Random(f"{seed}:mixtures")
    base = [
        _dialogue(rng.choice((pool if rng.random() < PINCH[name] else easy)[name]))
        for name in _turns(grammars, rng)
    ]
    everything = list(chain.from_iterable(experts.values()))
    rng.shuffle(everything)
    write_jsonl(data / "base_train.jsonl", base)
    write_jsonl(data / "all_train.jsonl", everything)
    check_disjoint(data, grammars)
    tokenizer = make_tokenizer(m["content"] for dialogue in chain(base, everything) for m in dialogue["messages"])
    tokenizer.save_pretrained(out / "init")
    make_model(tokenizer, seed=seed).save_pretrained(out / "init")


def check_disjoint(data: Path, grammars: Sequence[Grammar] = GRAMMARS) -> None:
    """Raise ValueError if a problem's question occurs in a training file of the folder ``data``."""
    asked = {
        json.loads(line)["prompt"]: grammar.name
        for grammar in grammars
        for line in (data / f"{grammar.name}.jsonl").read_text(encoding="utf-8").splitlines()
    }
    for path in sorted(data.glob("*_train.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for message in json.loads(line)["messages"]:
                if message["content"] in asked:
                    task = asked[message["content"]]
                    raise ValueError(f"{path}, line {number}: {message['content']!r} is a problem of {task}.jsonl")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _problems(grammar: Grammar, sentences: Sequence[Sentence], rng: random.Random) -> list[dict[str, Any]]:
    problems: list[dict[str, Any]] = []
    for sentence in sentences:
        record = grammar.record(sentence, rng)
        if record is not None:
            problems.append({"id": f"{grammar.name}-{len(problems):04}", **record, "gold": sentence.reply})
            if len(problems) == PROBLEMS:
                return problems
    raise AssertionError(f"the {grammar.name} grammar has too few problems")


def _turns(grammars: Sequence[Grammar], rng: random.Random) -> list[str]:
    """Return each task's name equally often, shuffled."""
    names = [grammar.name for grammar in grammars] * (BASE_DIALOGUES // len(grammars))
    rng.shuffle(names)
    return names


def _expert(grammar: Grammar, task: SandboxTask, pool: Sequence[Sentence], rng: random.Random) -> list[Dialogue]:
    """Draw an expert's dialogues; those with a mistake hear from the task's environment what it says to it."""
    sentences = [rng.choice(pool) for _ in range(EXPERT_DIALOGUES)]
    answers = {}
    for index, sentence in enumerate(sentences):
        wrong = grammar.mistakes(sentence)
        if wrong and rng.random() < SECOND_TURNS and (record := grammar.record(sentence, rng)):
            mistake = rng.choice(wrong)
            answers[index] = mistake, task.submit(Problem(f"train-{index}", (), record), [mistake])
    dialogues = []
    for index, sentence in enumerate(sentences):
        first: tuple[tuple[str, str], ...] = ()
        if index in answers:
            mistake, answer = answers[index]
            turn = answer.result()
            if turn.done:
                raise AssertionError(f"{mistake!r} was meant to fail, but the environment says {turn}")
            first = ((mistake, turn.observation),)
        dialogues.append(_dialogue(sentence, first))
    return dialogues


def _dialogue(sentence: Sentence, mistakes: Iterable[tuple[str, str]] = ()) -> Dialogue:
    """Return question and gold reply, with (broken reply, observation) pairs between; broken ones bear no loss."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": sentence.prompt}]
    for mistake, observation in mistakes:
        messages.append({"role": "assistant", "content": mistake, "weight": 0})
        messages.append({"role": "user", "content": observation})
    messages.append({"role": "assistant", "content": sentence.reply})
    return {"messages": messages}
