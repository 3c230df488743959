"""The README.md that goes with a saved model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cyqd.report.tables import markdown_table


def model_card(base: str, text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a model card in the Hugging Face hub's format.

    Args:
        base: name or path of the base model.
        text: how the model came about, one paragraph.
        rows: the results table, if there is one.
    """
    table = f"\n## Results on the test split (95 % intervals)\n\n{markdown_table(rows)}\n" if rows else ""
    return f"---\nbase_model: {base}\ntags:\n- merge\n- cyqd\n---\n\n{text}\n{table}"
