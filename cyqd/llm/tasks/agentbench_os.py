"""AgentBench's operating-system benchmark: bash in a container, then an answer or a state that scripts check."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Literal, NamedTuple

from cyqd.llm.environments.driven import ContainerFault
from cyqd.llm.environments.pool import ContainerLimits, ContainerPool
from cyqd.llm.tasks.agentbench_os_files import read_os_problems
from cyqd.llm.tasks.base import Spec, Turn
from cyqd.llm.tasks.live import EnvironmentFault, LiveTask, Session
from cyqd.llm.tasks.problems import Message, Problem, messages_of

SHOWN = 800  # characters of an output; a longer one is cut to 20 fewer
OUTPUT = "The output of the OS:\n\n"
NO_OUTPUT = "The output of the OS is empty."

_PROMPT = Path(__file__).with_name("prompts") / "agentbench_os.txt"
_BLOCK = re.compile(r"```bash\n(.*?)\n```", re.DOTALL)
_ACT = re.compile(r"Act:\s*(.+)")
# Terminal control sequences (ECMA-48: CSI, then OSC and its like, then the short ones), other control characters.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]"
)


class Action(NamedTuple):
    """What a reply asks for: "bash" with its commands, or "commit" with the answer, None for "finish"."""

    kind: Literal["bash", "commit"]
    content: str | None


class AgentBenchOS(LiveTask):
    """Act in a shell of a container of one's own, then finish or answer (AgentBench v0.2, os_interaction).

    Args:
        problems: AgentBench's folder ``data/os_interaction``, or one JSON or JSONL file; see
            :func:`~cyqd.llm.tasks.agentbench_os_files.read_os_problems`.
        scripts: the folder that a single file's scripts are in.
        uncommitted: what becomes of a dialogue that ends with neither "finish" nor "answer". "judge": as if the
            answer were empty, so that a state that is right scores (CycleQD's reference); "fail" (AgentBench).
        silence_seconds: stop listening to a command that neither printed nor computed for so long; it goes on, and
            gets what is typed next. AgentBench has 5, whether it computes or not.
        command_seconds: a command that still prints or computes is killed after this time.
        script_seconds: the limit of each script that prepares or checks; one of AgentBench's sleeps for 60.
        warm: containers started ahead for each image; by default as many as ``environments``.
        limits: what a container may use.
    """

    default_name = "os"

    def __init__(
        self,
        problems: Path,
        *,
        scripts: Path | None = None,
        uncommitted: Literal["judge", "fail"] = "judge",
        silence_seconds: float = 5.0,
        command_seconds: float = 30.0,
        script_seconds: float = 120.0,
        warm: int | None = None,
        limits: ContainerLimits = ContainerLimits(),  # noqa: B008
        **options: Any,
    ) -> None:
        self.scripts = scripts
        super().__init__(problems, **options)
        if uncommitted not in ("judge", "fail"):
            raise ValueError(f"task {self.name}: uncommitted must be 'judge' or 'fail', got {uncommitted!r}")
        seconds = {
            "silence_seconds": silence_seconds,
            "command_seconds": command_seconds,
            "script_seconds": script_seconds,
        }
        for key, number in seconds.items():
            if number <= 0:
                raise ValueError(f"task {self.name}: {key} must be more than 0, got {number}")
        if warm is not None and warm < 0:
            raise ValueError(f"task {self.name}: warm must be at least 0, got {warm}")
        self.uncommitted = uncommitted
        self.silence_seconds = silence_seconds
        self.command_seconds = command_seconds
        self.script_seconds = script_seconds
        self.warm = warm
        self.limits = limits
        self._pools: dict[str, ContainerPool] = {}
        self._pools_lock = threading.Lock()

    def load(self) -> list[Problem]:
        """Read the problems; all begin with AgentBench's instruction and one solved example."""
        shot = prompt()
        found = []
        for _, name, spec in read_os_problems(self.path, self.scripts):
            last = shot[-1]["content"].replace("{description}", spec["description"])
            messages = messages_of([*shot[:-1], {"role": "user", "content": last}], self.system)
            found.append(Problem(name, messages, spec))
        return found

    def check_spec(self, spec: Spec) -> None:
        """Nothing is left to check: reading did."""

    def open(self, problem: Problem) -> Session:
        """Take a warm container and prepare it; see :meth:`LiveTask.open`."""
        with self._pools_lock:
            image = problem.spec["image"]
            if image not in self._pools:
                self._pools[image] = ContainerPool(
                    image, warm=self.environments if self.warm is None else self.warm, limits=self.limits
                )
            pool = self._pools[image]
        return OSSession(self, problem, pool)

    def close(self) -> None:
        """Close all sessions and remove all containers; see :meth:`LiveTask.close`."""
        super().close()
        with self._pools_lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    def gold(self, problem: Problem) -> list[str | Callable[[str], str]] | None:
        """Answer what is to be matched; else run the example, and answer its output where the check asks for it."""
        match, example = problem.spec["match"], problem.spec["example"]
        if match:
            return [_reply(f"answer({match['answer']})")] if "answer" in match else None
        if not example:
            return None
        code = example["code"] if example["language"] == "bash" else f"python3 -c {quote(example['code'])}"
        run = _reply(f"bash\n\n```bash\n{code}\n```")
        if None in problem.spec["check"]:
            return [run, lambda seen: _reply(f"answer({'' if seen == NO_OUTPUT else seen.removeprefix(OUTPUT)})")]
        return [run, _reply("finish")]

    def wrong(self, problem: Problem) -> list[str]:
        """Answer a number that no problem asks for, having done nothing."""
        return [_reply("answer(987654321)")]


class OSSession(Session):
    """A problem's container: prepared by its scripts, then the agent's."""

    def __init__(self, task: AgentBenchOS, problem: Problem, pool: ContainerPool) -> None:
        self.task = task
        self.spec = problem.spec
        try:
            self.container = pool.take()
        except ContainerFault as fault:
            raise EnvironmentFault(str(fault)) from fault
        try:
            self._prepare(seed=int.from_bytes(hashlib.sha256(problem.id.encode()).digest()[:2], "big") & 0x7FFF)
        except BaseException as error:
            self.close()
            if isinstance(error, ContainerFault):
                raise EnvironmentFault(str(error)) from error
            raise

    def reply(self, text: str, *, last: bool) -> Turn:
        """Run the reply's commands, or judge its answer; see :meth:`Session.reply`."""
        action = parse(text)
        try:
            if action is not None and action.kind == "commit":
                return Turn(done=True, score=float(self._solved(action.content)))
            output = "" if action is None else self._shell(action.content or "")
            if action is not None and not last:
                return Turn(done=False, observation=observation(output))
            return Turn(done=True, score=float(self.task.uncommitted == "judge" and self._solved("")))
        except ContainerFault as fault:
            raise EnvironmentFault(str(fault)) from fault

    def close(self) -> None:
        """Give the container back; see :meth:`Session.close`."""
        self.container.close()

    def _prepare(self, seed: int) -> None:
        """Run the scripts that make the problem, their pseudo-random numbers seeded: it starts alike every time."""
        for script in self.spec["init"]:
            if script["language"] == "bash":
                code, arguments = f"RANDOM={seed}\n{script['code']}", []
            else:
                code = f"import random, sys; random.seed({seed}); exec(sys.argv.pop(1))"
                arguments = [script["code"]]
            done = self.container.script(script["language"], code, *arguments, seconds=self.task.script_seconds)
            if (
                done.exit_code is None
            ):  # others mean nothing: some scripts fail everywhere, and AgentBench does not look
                raise ContainerFault(f"a script that prepares the problem ran for {self.task.script_seconds} s")
        if self.spec["start"]:
            self._shell(self.spec["start"]["code"])

    def _shell(self, text: str) -> str:
        return self.container.shell(text, silence=self.task.silence_seconds, seconds=self.task.command_seconds)

    def _solved(self, answer: str | None) -> bool:
        """Judge as AgentBench: a script gets the answer and what the scripts before it printed as arguments."""
        match: Mapping[str, Any] | None = self.spec["match"]
        if match:
            answer = answer.strip() if answer is not None and match.get("strip") else answer
            if "answer" in match:
                return bool(answer == match["answer"])
            return answer is not None and re.search(match["regex"], answer) is not None
        arguments = [str(answer)]
        for script in self.spec["check"]:
            script = script or self.spec["example"]
            done = self.container.script(
                script["language"], script["code"], *arguments, seconds=self.task.script_seconds
            )
            if done.exit_code != 0:
                return False
            arguments.append(done.output)
        return True


def parse(reply: str) -> Action | None:
    """Return the last action in a reply that is well-formed; None if there is no such.

    All of a reply's bash blocks are its commands, whatever stands between them.
    """
    for action in reversed(_ACT.findall(reply)):
        kind = action.lower()
        if kind.startswith("bash"):
            return Action("bash", "\n\n".join(_BLOCK.findall(reply)))
        if kind.startswith("finish"):
            return Action("commit", None)
        if kind.startswith("answer") and "(" in action and ")" in action:
            return Action("commit", action[action.find("(") + 1 : action.rfind(")")])
    return None


def observation(output: str) -> str:
    """Return what the model is told of a terminal's output: no control sequences, and cut as AgentBench cuts."""
    text = _CONTROL.sub("", output.replace("\r\n", "\n")).rstrip()
    if len(text) > SHOWN:
        text = text[: SHOWN - 20] + "\n[truncated because the output is too long]"
    return OUTPUT + text if text else NO_OUTPUT


def prompt() -> list[Message]:
    """Return the messages before a problem, and the one that states it, with ``{description}`` in its place."""
    parts = re.split(r"^=== (user|assistant) ===\n", _PROMPT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [{"role": role, "content": text[:-1]} for role, text in zip(parts[::2], parts[1::2], strict=True)]


def _reply(act: str) -> str:
    return f"Think: so it is.\n\nAct: {act}"
