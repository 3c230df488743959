"""Means that do not depend on order or sharding, with known intervals."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyqd.training import MeanScore

UNIT = st.floats(0, 1, width=32)


def mean_of(*parts: list[float]) -> MeanScore:
    metric = MeanScore()
    for part in parts:
        metric.update(torch.tensor(part, dtype=torch.float64))
    return metric


@given(values=st.lists(UNIT, min_size=1, max_size=40), seed=st.integers(0, 99))
def test_the_mean_is_the_same_bits_in_any_order_and_grouping(values: list[float], seed: int) -> None:
    shuffled = random.Random(seed).sample(values, len(values))
    cut = random.Random(seed).randrange(len(values))
    assert mean_of(values).score() == mean_of(shuffled[:cut], shuffled[cut:]).score()


@given(values=st.lists(UNIT, min_size=1, max_size=40))
def test_the_mean_is_right_to_a_part_in_2_to_the_40(values: list[float]) -> None:
    exact = sum(map(Fraction, values)) / len(values)
    score = mean_of(values).score()
    assert abs(Fraction(score.mean) - exact) <= Fraction(1, 2**40)
    assert score.n == len(values)
    assert 0 <= score.low <= score.mean + 1e-12
    assert score.mean - 1e-12 <= score.high <= 1
    assert float(mean_of(values).compute()) == pytest.approx(score.mean, abs=1e-15)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (123, 300), (300, 300)])
def test_passes_and_failures_get_the_wilson_interval(hits: int, n: int) -> None:
    """Its ends are the rates from which the observed one is 1.96 standard errors away."""
    score = mean_of([1.0] * hits + [0.0] * (n - hits)).score()
    for end, sign in ((score.low, 1), (score.high, -1)):
        if 1e-9 < end < 1 - 1e-9:
            error = (end * (1 - end) / n) ** 0.5
            assert sign * (hits / n - end) == pytest.approx(1.959963984540054 * error, abs=1e-9)
    assert score.low == pytest.approx(0, abs=1e-12) if hits == 0 else score.low > 0
    assert score.high == pytest.approx(1, abs=1e-12) if hits == n else score.high < 1


def test_other_scores_get_the_normal_interval() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = mean_of(values.tolist()).score()
    half = 1.959963984540054 * float(values.std()) / 50**0.5
    assert (score.low, score.high) == pytest.approx((score.mean - half, score.mean + half), abs=1e-9)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_what_is_no_score_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_of([0.5, bad])


def test_no_values_have_no_score() -> None:
    assert MeanScore().score() == (0.0, 0.0, 1.0, 0)
