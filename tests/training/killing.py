"""Runs the command line in this process and kills it with SIGKILL at an exact moment of saving.

Usage: python -m tests.training.killing MOMENT COUNT ARGUMENT…, where MOMENT is PART:before or PART:after and
names the renaming of a file whose path contains PART; COUNT is which of its renamings.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cyqd.__main__ import main


def kill_at(moment: str, count: int) -> None:
    name, phase = moment.split(":")
    replace = os.replace
    seen = 0

    def die(target: Path) -> None:
        if name == "state/state.json" and phase == "before":
            with (target.parents[2] / "history.jsonl").open("a") as history:
                history.write('{"evaluation": 99, "torn')  # a line that the kill cut short
        os.kill(os.getpid(), signal.SIGKILL)

    def replace_and_count(source: Path, target: Path) -> None:
        nonlocal seen
        matches = name in str(target)
        seen += matches
        if matches and seen == count and phase == "before":
            die(Path(target))
        replace(source, target)
        if matches and seen == count and phase == "after":
            die(Path(target))

    os.replace = replace_and_count


if __name__ == "__main__":
    kill_at(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[3:])
