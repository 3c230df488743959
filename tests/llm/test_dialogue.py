"""Dialogues with a toy environment: the model has to name a number, and is told whether it is too low or high."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from threading import Event

import lightning as L
import pytest

from cyqd.llm import LLMData, LLMModule
from cyqd.llm.chat import chat_template, render
from cyqd.llm.dialogue import TOO_LONG, Dialogue, Dialogues
from cyqd.llm.tasks.base import Spec, Task, Turn
from cyqd.llm.tasks.problems import Message, Problem


class Guess(Task):
    """Guess a number; the score is 1 for it, less for being off when the turns are used up."""

    default_name = "guess"

    def __init__(self, numbers: Sequence[int], *, name: str = "guess", max_turns: int = 5) -> None:
        self.numbers = numbers
        super().__init__(Path("none"), name=name, max_turns=max_turns)
        self.pool = ThreadPoolExecutor(2)
        self.gate = Event()
        self.gate.set()
        self.submitted: list[tuple[str, int]] = []

    def load(self) -> list[Problem]:
        return [
            Problem(str(i), ({"role": "user", "content": f"number {n}"},), {"n": n})
            for i, n in enumerate(self.numbers)
        ]

    def check_spec(self, spec: Spec) -> None:
        assert isinstance(spec["n"], int)

    def submit(self, problem: Problem, replies: Sequence[str]) -> Future[Turn]:
        self.submitted.append((problem.id, len(replies)))
        return self.pool.submit(self.judge, problem, list(replies))

    def judge(self, problem: Problem, replies: list[str]) -> Turn:
        self.gate.wait(30)
        if problem.spec["n"] == 13:
            return Turn(done=True, fault="13 breaks it")
        off = problem.spec["n"] - len(replies[-1])
        if off == 0 or len(replies) == self.max_turns:
            return Turn(done=True, score=1 / (1 + abs(off)))
        return Turn(done=False, observation="more" if off > 0 else "less")


class Counter:
    """Replies with a text that is one longer every turn; remembers which dialogues it was asked for at once."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, task: Task, dialogues: Sequence[Dialogue]) -> list[str | None]:
        conversations = [dialogue.messages for dialogue in dialogues]
        self.calls.append([messages[0]["content"] for messages in conversations])
        return [None if m[0]["content"] == "number 99" else "x" * (len(m) // 2 + 1) for m in conversations]


def everything(task: Guess) -> list[Problem]:
    return sorted([*task.problems("optimisation"), *task.problems("test")], key=lambda p: int(p.id))


def play(task: Guess, batches: list[list[Problem]]) -> tuple[dict[str, Turn], Counter, dict[str, float]]:
    model, turns, timings = Counter(), {}, {}
    dialogues = Dialogues(model, timings)
    for batch in batches:
        dialogues.add(task, batch, lambda problem, turn: turns.__setitem__(problem.id, turn))
    dialogues.drain()
    return turns, model, timings


def test_turns_scores_and_the_last_reply() -> None:
    task = Guess([1, 3, 5, 9])
    turns, _, timings = play(task, [everything(task)])
    assert {i: t.score for i, t in turns.items()} == {"0": 1.0, "1": 1.0, "2": 1.0, "3": 1 / 5}
    assert max(turn for _, turn in task.submitted) == 5
    assert timings.keys() == {"generate", "environments"}


def test_a_call_holds_dialogues_of_one_batch_alone() -> None:
    task = Guess([1, 2, 3, 4, 5, 2])
    problems = everything(task)
    batches = [problems[:3], problems[3:]]
    _, model, _ = play(task, batches)
    whole = [{p.messages[0]["content"] for p in batch} for batch in batches]
    assert all(any(set(call) <= batch for batch in whole) for call in model.calls)


def test_the_model_writes_while_the_environment_is_busy() -> None:
    task = Guess([2, 2])
    task.gate.clear()
    model, turns = Counter(), {}
    dialogues = Dialogues(model, {})
    for problem in everything(task):
        dialogues.add(task, [problem], lambda problem, turn: turns.__setitem__(problem.id, turn))
    assert len(model.calls) == 2, "the second batch was begun while the first waits"
    assert not turns
    task.gate.set()
    dialogues.drain()
    assert [turn.score for turn in turns.values()] == [1.0, 1.0]


def test_faults_and_conversations_that_are_too_long() -> None:
    task = Guess([13, 99, 1])
    turns, _, _ = play(task, [everything(task)])
    assert [turns[str(i)].score for i in range(3)] == [0.0, 0.0, 1.0]
    assert [turns[str(i)].fault for i in range(3)] == ["13 breaks it", TOO_LONG, None]


def evaluate(base: Path, tasks: list[Task]) -> tuple[LLMModule, dict[str, float], dict[str, float]]:
    module = LLMModule(base, max_new_tokens=6)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    data = LLMData(tasks, eval_batch_size=4)
    val = trainer.validate(module, data, verbose=False)
    test = trainer.test(module, data, verbose=False)
    return module, dict(ChainMap(*val)), dict(ChainMap(*test))


def test_scores_through_lightning(base: Path) -> None:
    a = Guess([3, 6, 13, 2, 9, 11, 4, 13, 13, 13, 8, 1, 5, 7], name="a")
    tasks: list[Task] = [a, Guess([5, 7, 4, 6], name="b", max_turns=1)]
    module, val, test = evaluate(base, tasks)
    assert val.keys() == {"val/a", "val/b"}
    assert test.keys() == {"test/a", "test/b"}
    assert module.faults == {f"a/{p.id}": "13 breaks it" for p in a.problems("test") if p.spec["n"] == 13}
    assert module.outcomes.keys() == {f"{task.name}/{p.id}" for task in tasks for p in task.problems("test")}
    assert [metric.score().n for metric in module.metrics] == [7, 2]
    assert all(0 < score < 1 for score in val.values())
    assert val == evaluate(base, tasks)[1], "the same again"


class Sided(Guess):
    """Guess twice; every dialogue reports whether its number is odd, and that it broke once."""

    measures = ("odd", "even")

    def judge(self, problem: Problem, replies: list[str]) -> Turn:
        turn = super().judge(problem, replies)
        (kind,) = self.measures_of(problem)
        broke = "a cable" if len(replies) == 1 else None
        measures = {kind: turn.score} if turn.done and turn.score else {}  # what is missing is 0
        return replace(turn, measures=measures, retried=broke)

    def measures_of(self, problem: Problem) -> Sequence[str]:
        return ["odd" if problem.spec["n"] % 2 else "even"]

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        return {**means, "both": (means["odd"] + means["even"]) / 2}


def test_a_problems_dialogues_are_combined_when_the_last_has_ended() -> None:
    task = Sided([3, 8])
    task.samples = 3
    turns, model, _ = play(task, [everything(task)])
    assert len(model.calls[0]) == 6
    assert turns["0"] == Turn(done=True, score=1.0, measures={"odd": 1.0}, retried="a cable")
    assert turns["1"].score == turns["1"].measures["even"] == pytest.approx(1 / 4)


def test_measures_and_retries_reach_the_module(base: Path) -> None:
    task = Sided([3, 8, 5, 6, 2, 7, 13, 13, 13, 13])
    module, _, test = evaluate(base, [task])
    half = task.problems("test")
    odd = [module.outcomes[f"guess/{p.id}"] for p in half if p.spec["n"] % 2]
    even = [module.outcomes[f"guess/{p.id}"] for p in half if p.spec["n"] % 2 == 0]
    means = {"odd": fmean(odd or [0.0]), "even": fmean(even or [0.0])}
    assert module.measures() == {"guess": pytest.approx({**means, "both": fmean(means.values())})}
    assert test["test/guess/odd"] == pytest.approx(means["odd"])
    assert set(module.retries.values()) == {"a cable"}
    assert module.retries.keys() == module.outcomes.keys()


def dialogue(*messages: Message) -> Dialogue:
    return Dialogue(Problem(messages[0]["content"], messages, {}), 0, list(messages))


def test_a_reply_goes_on_from_the_prefix_that_the_problem_gives() -> None:
    begun = dialogue({"role": "user", "content": "q"}, {"role": "assistant", "content": "```python\n"})
    begun.say("x = 1\n```")
    assert begun.replies == ["```python\nx = 1\n```"]
    assert begun.messages[1:] == [{"role": "assistant", "content": "```python\nx = 1\n```"}]


def test_prompts_by_template_and_prefix(base: Path) -> None:
    tokenizer = LLMModule(base, max_new_tokens=8).tokenizer
    chat = [{"role": "user", "content": "add"}, {"role": "assistant", "content": "def"}]
    assert render(tokenizer, chat, prompt=True) == "<s><|user|>\nadd<|end|>\n<|assistant|>\ndef"
    text = render(tokenizer, chat, prompt=True, template=chat_template("magicoder"))
    assert text.startswith("<s>You are")
    assert text.endswith("user instructions.\n\n@@ Instruction:\nadd\n\n@@ Response:def")
    with pytest.raises(FileNotFoundError, match="one of magicoder; got magicodr"):
        chat_template("magicodr")


def numbers(*counts: int) -> list[Dialogue]:
    return [dialogue({"role": "user", "content": "number " * n}) for n in counts]


def test_a_reply_does_not_depend_on_the_other_prompts(base: Path) -> None:
    module = LLMModule(base, max_new_tokens=8).eval()
    task = Guess([1, 2])
    for task.temperature in (0.0, 1.0):
        together = module.reply(task, numbers(1, 4, 9))
        assert together == [module.reply(task, [one])[0] for one in numbers(1, 4, 9)]
        assert all("<|" not in reply for reply in together if reply is not None)


def test_samples_differ_and_come_again(base: Path) -> None:
    module = LLMModule(base, max_new_tokens=8).eval()
    task = Guess([1, 2])
    task.temperature = 2.0
    chats = numbers(*[3] * 20)
    for sample, chat in enumerate(chats):
        chat.sample = sample
    L.seed_everything(1, verbose=False)
    replies = module.reply(task, chats)
    assert len(set(replies)) > 10
    assert module.reply(task, chats) == replies
    L.seed_everything(2, verbose=False)
    assert module.reply(task, chats) != replies


def test_a_conversation_beyond_the_context_ends(base: Path) -> None:
    module = LLMModule(base, max_new_tokens=8).eval()
    long = dialogue({"role": "user", "content": "z" * 600})
    assert module.reply(Guess([1, 2]), [long, *numbers(1)])[0] is None
    assert module.reply(Guess([1, 2]), [long]) == [None]


def test_no_room_for_prompts(base: Path) -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        LLMModule(base, max_new_tokens=512)
