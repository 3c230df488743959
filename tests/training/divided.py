"""Toy data that is not the same on every process, as where two machines hold different files."""

from __future__ import annotations

import os

from tests.toy import ToyData


class DividedData(ToyData):
    def splits(self) -> dict[str, dict[str, list[str]]]:
        return {"task0": {"optimisation": [os.environ.get("LOCAL_RANK", "0")]}}
