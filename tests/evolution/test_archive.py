"""Archives against the design: bins half-open, last closed; one elite per cell; strictly better enters."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyqd.evolution.archive import MIN_AXIS_WIDTH, Archive, Elite, behaviour_edges

EDGES = behaviour_edges((0.2, 0.8), bins=15, low=0.85, high=1.15)
TASKS = st.integers(2, 5)


def archive(tasks: int, task: int = 0) -> Archive:
    return Archive(task, [EDGES] * tasks)


@st.composite
def offers(draw: st.DrawFn) -> tuple[int, int, list[Elite]]:
    """K, the quality task, and models whose scores often tie and often share a cell."""
    tasks = draw(TASKS)
    score = st.one_of(st.sampled_from([0.0, 0.3, 0.31, 0.5, 1.0]), st.floats(-0.5, 1.5))
    rows = draw(st.lists(st.tuples(*[score] * tasks), min_size=1, max_size=30))
    return tasks, draw(st.integers(0, tasks - 1)), [Elite(id, row) for id, row in enumerate(rows)]


def expected_bin(score: float, edges: tuple[float, ...]) -> int:
    """The definition, one comparison at a time, in exact arithmetic."""
    exact = [Fraction(edge) for edge in edges]
    if Fraction(score) < exact[0]:
        return 0
    for index, (low, high) in enumerate(pairwise(exact)):
        if low <= Fraction(score) < high:
            return index
    return len(edges) - 2


@given(offers())
def test_each_cell_holds_the_first_of_the_best_models_offered_to_it(case):
    tasks, task, models = case
    lattice = archive(tasks, task)
    best: dict[tuple[int, ...], Elite] = {}
    for model in models:
        cell = tuple(expected_bin(s, EDGES) for axis, s in enumerate(model.scores) if axis != task)
        improves = cell not in best or model.scores[task] > best[cell].scores[task]
        if improves:
            best[cell] = model
        assert lattice.add(model) is improves
    assert lattice.cells == best
    assert lattice.elites == sorted(best.values(), key=lambda elite: elite.id)
    assert len(lattice) == len(best)


@given(offers())
def test_a_cells_quality_never_falls_and_no_cell_empties(case):
    tasks, task, models = case
    lattice = archive(tasks, task)
    for model in models:
        before = {cell: lattice.quality(elite) for cell, elite in lattice.cells.items()}
        lattice.add(model)
        after = {cell: lattice.quality(elite) for cell, elite in lattice.cells.items()}
        assert all(after[cell] >= quality for cell, quality in before.items())


@given(offers())
def test_offering_everything_again_changes_nothing(case):
    tasks, task, models = case
    lattice = archive(tasks, task)
    for model in models:
        lattice.add(model)
    before = dict(lattice.cells)
    assert not any(lattice.add(model) for model in models)
    assert lattice.cells == before


@given(offers())
def test_state_survives_json_exactly(case):
    tasks, task, models = case
    lattice = archive(tasks, task)
    for model in models:
        lattice.add(model)
    copy = Archive.from_state_dict(json.loads(json.dumps(lattice.state_dict())))
    assert copy.cells == lattice.cells
    assert (copy.task, copy.shape, copy.elites) == (lattice.task, lattice.shape, lattice.elites)
    assert [tuple(edges) for edges in copy.edges] == [tuple(edges) for edges in lattice.edges]
    assert json.dumps(copy.state_dict()) == json.dumps(lattice.state_dict())


@given(offers())
def test_coverage_and_qd_score_count_the_elites(case):
    tasks, task, models = case
    lattice = archive(tasks, task)
    for model in models:
        lattice.add(model)
    assert lattice.coverage == pytest.approx(len(lattice.cells) / 15 ** (tasks - 1))
    assert lattice.qd_score == pytest.approx(sum(e.scores[task] for e in lattice.elites), abs=1e-12)


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
def test_an_archive_of_k_tasks_has_k_minus_one_axes(tasks):
    for task in range(tasks):
        lattice = archive(tasks, task)
        assert lattice.shape == (15,) * (tasks - 1)
        assert len(lattice.cell_of((0.5,) * tasks)) == tasks - 1


def test_axes_may_have_different_numbers_of_bins():
    coarse, fine = (0.0, 0.5, 1.0), tuple(np.linspace(0, 1, 8))
    lattice = Archive(0, [EDGES, coarse, fine])
    assert lattice.shape == (2, 7)
    assert lattice.cell_of((0.1, 9.0, 9.0)) == (1, 6)


def test_the_quality_score_takes_no_part_in_the_cell():
    lattice = archive(3, task=1)
    assert lattice.cell_of((0.4, 0.0, 0.6)) == lattice.cell_of((0.4, 1.0, 0.6))


@pytest.mark.parametrize("index", range(16))
def test_an_edge_belongs_to_the_bin_above_it_and_the_last_edge_to_the_last_bin(index):
    lattice, edge = archive(2), EDGES[index]
    below, above = math.nextafter(edge, -math.inf), math.nextafter(edge, math.inf)
    assert lattice.cell_of((0.0, below)) == (min(max(index - 1, 0), 14),)
    assert lattice.cell_of((0.0, edge)) == (min(index, 14),)
    assert lattice.cell_of((0.0, above)) == (min(index, 14),)


@given(score=st.floats(allow_nan=False, allow_infinity=False))
def test_a_score_outside_the_range_falls_into_the_edge_bin(score):
    assert archive(2).cell_of((0.0, score)) == (expected_bin(score, EDGES),)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_not_finite_raises_and_leaves_the_archive_unchanged(bad, place):
    lattice = archive(3)
    lattice.add(Elite(0, (0.5, 0.5, 0.5)))
    before = lattice.state_dict()
    scores = [0.6, 0.6, 0.6]
    scores[place] = bad
    with pytest.raises(ValueError, match="finite"):
        lattice.add(Elite(1, tuple(scores)))
    assert lattice.state_dict() == before


@pytest.mark.parametrize("scores", [(), (0.5, 0.5), (0.5,) * 4])
def test_a_wrong_number_of_scores_raises_and_leaves_the_archive_unchanged(scores):
    lattice = archive(3)
    with pytest.raises(ValueError, match=f"expected 3 scores.*got {len(scores)}"):
        lattice.add(Elite(0, scores))
    assert len(lattice) == 0


def test_a_tie_keeps_the_incumbent_even_against_a_more_recent_model():
    lattice = archive(2)
    assert lattice.add(Elite(0, (0.5, 0.4)))
    assert not lattice.add(Elite(1, (0.5, 0.4)))
    assert [elite.id for elite in lattice] == [0]
    assert lattice.add(Elite(2, (math.nextafter(0.5, 1), 0.4)))
    assert [elite.id for elite in lattice] == [2]


def test_zero_quality_enters_an_empty_cell():
    assert archive(2).add(Elite(0, (0.0, 0.0)))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(1, 30))
def test_axes_run_from_85_percent_of_the_lowest_to_115_percent_of_the_highest_expert(scores, bins):
    edges = behaviour_edges(scores, bins=bins, low=0.85, high=1.15)
    start, stop = 0.85 * min(scores), 1.15 * max(scores)
    stop = max(stop, start + MIN_AXIS_WIDTH)
    assert len(edges) == bins + 1
    assert edges[0] == start
    assert edges[-1] == stop
    assert all(a < b for a, b in pairwise(edges))
    np.testing.assert_allclose(np.diff(edges), (stop - start) / bins, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e-9, 0.001])
def test_experts_that_score_next_to_nothing_leave_an_axis_of_the_minimum_width(value):
    edges = behaviour_edges((value, value), bins=15, low=0.85, high=1.15)
    assert edges[-1] - edges[0] == pytest.approx(MIN_AXIS_WIDTH)
    lattice = Archive(0, [edges, edges])
    assert lattice.add(Elite(0, (value, value)))
    assert lattice.cell_of((value, 1.0)) == (14,)


def test_experts_of_equal_score_still_have_a_range_around_it():
    edges = behaviour_edges((0.5, 0.5, 0.5), bins=15, low=0.85, high=1.15)
    assert (edges[0], edges[-1]) == (0.85 * 0.5, 1.15 * 0.5)


def test_the_mean_of_an_elite_is_exact_in_any_order():
    scores = (0.1, 0.2, 0.3, 0.4, 0.7)
    assert Elite(0, scores).mean == Elite(0, scores[::-1]).mean
