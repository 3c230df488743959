"""Operating system: shell commands on the problem's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from shlex import quote

from cyqd.llm.environments import Job, Outcome
from cyqd.llm.tasks.base import SandboxTask, Spec, Turn, failure
from cyqd.llm.tasks.problems import Problem
from cyqd.llm.tasks.replies import code_or_raw

# The driver's own exit codes.
_CHECK_FAILED = 213
_SETUP_FAILED = 214


class OperatingSystem(SandboxTask):
    """Write shell commands (bash); they score 1 if they print what is expected or a check passes afterwards.

    A command that fails is answered by its stderr or stdout, and the model may try again; one that succeeds is
    final. Every reply runs in a shell of its own in the same directory. A problem has ``files``, path → text,
    optionally ``setup``, bash that runs first, and either ``expected``, the last reply's stdout, or ``check``, bash
    that exits with 0 if the replies did what was asked. The check runs in the same state but in a shell that the
    replies did not start; processes that they leave behind still run beside it.
    """

    default_name = "os"

    def check_spec(self, spec: Spec) -> None:
        """Check that there are files, as texts, and exactly one kind of answer."""
        if not isinstance(files := spec.get("files"), dict) or not all(isinstance(t, str) for t in files.values()):
            raise ValueError(f"'files' must map paths to texts, got {files!r:.60}")
        for path in map(PurePosixPath, files):
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"'files' must have relative paths inside the problem's directory, got '{path}'")
        if not isinstance(spec.get("setup", ""), str):
            raise ValueError(f"'setup' must be a text, got {spec['setup']!r:.60}")
        if ("expected" in spec) == ("check" in spec):
            raise ValueError("exactly one of the keys 'expected' and 'check' is needed")
        answer = spec.get("expected", spec.get("check"))
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError("'expected' or 'check' must be a text that is not empty")

    def plan(self, spec: Spec, replies: Sequence[str]) -> Job:
        """Run setup and all replies in turn; what earlier replies print is dropped."""
        *earlier, last = [f"bash -c {quote(_command(reply))}" for reply in replies]
        steps = [f"{command} >/dev/null 2>&1" for command in earlier]
        if "setup" in spec:
            steps.insert(0, f"bash -c {quote(spec['setup'])} >/dev/null || exit {_SETUP_FAILED}")
        steps.append(f"{last} || exit")
        if "check" in spec:
            steps.append(f"bash -c {quote(spec['check'])} >/dev/null 2>&1 || exit {_CHECK_FAILED}")
        # In braces it is parsed as a whole before a reply runs.
        return Job("{\n" + "\n".join([*steps, "exit 0"]) + "\n}\n", "bash", spec["files"])

    def judge(self, spec: Spec, outcome: Outcome) -> Turn:
        """Compare stdout or read the check's verdict; report a command that failed."""
        if "setup" in spec and outcome.exit_code == _SETUP_FAILED:
            return Turn(done=True, fault=f"the problem's setup failed: {outcome.stderr.strip()}")
        if "check" in spec:
            good = outcome.status == "ok"
        else:
            good = outcome.status in ("ok", "error") and outcome.stdout.strip() == spec["expected"].strip()
        if good or outcome.status == "ok" or ("check" in spec and outcome.exit_code == _CHECK_FAILED):
            return Turn(done=True, score=float(good))
        return Turn(done=False, observation=failure(outcome))

    def wrong(self, problem: Problem) -> list[str]:
        """Return a command that succeeds and changes nothing."""
        return ["echo 987654321"]


def _command(reply: str) -> str:
    """Return the commands in a reply; bash cannot take a zero byte in them."""
    return code_or_raw(reply, "bash", "sh", "shell", "console").replace("\0", "")
