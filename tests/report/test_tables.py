"""The results table."""

from __future__ import annotations

import math

from cyqd.report.card import model_card
from cyqd.report.tables import markdown_table, results_row

RECORD = {
    "scores": {"a": 0.5, "b": 0.75},
    "intervals": {"a": [0.4, 0.6], "b": [0.7, 0.85]},
    "n": {"a": 100, "b": 200},
}


def test_the_mean_and_its_interval() -> None:
    row = results_row("model", RECORD)
    assert row["mean"]["mean"] == 0.625
    assert math.isclose(row["mean"]["low"], 0.625 - math.hypot(0.1, 0.05) / 2)
    assert math.isclose(row["mean"]["high"], 0.625 + math.hypot(0.1, 0.1) / 2)
    assert row["tasks"]["b"] == {"mean": 0.75, "low": 0.7, "high": 0.85, "n": 200}
    assert "faults" not in row


def test_faults_and_retries_are_named_in_the_row() -> None:
    row = results_row("model", {**RECORD, "faults": {"a/3": "broke"}, "retries": {"a/4": "broke once"}})
    assert row["faults"] == {"a/3": "broke"}
    assert row["retries"] == {"a/4": "broke once"}


def test_measures_have_a_table_of_their_own() -> None:
    row = results_row("model", {**RECORD, "measures": {"b": {"plus": 0.25, "pass@5": 0.5}}})
    scores, measures = markdown_table([row, row]).split("\n\n")
    assert scores == markdown_table([results_row("model", RECORD)] * 2)
    assert measures.splitlines()[0] == "| model | b: plus | b: pass@5 |"
    assert measures.splitlines()[2].split() == ["|", "model", "|", "0.250", "|", "0.500", "|"]


def test_the_table_shows_n_and_intervals_in_aligned_columns() -> None:
    lines = markdown_table([results_row("base", RECORD), results_row("a longer name", RECORD)]).splitlines()
    assert "a (n = 100)" in lines[0]
    assert "0.500 [0.400, 0.600]" in lines[2]
    assert len({len(line) for line in lines}) == 1


def test_the_card_names_the_base() -> None:
    card = model_card("my/base", "Merged.", [results_row("merged", RECORD)])
    assert card.startswith("---\nbase_model: my/base\n")
    assert "| merged" in card
