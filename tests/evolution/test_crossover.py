"""Crossover coefficients: ω₁/(ω₁+ω₂), ω₂/(ω₁+ω₂) with ω ~ N(μ, σ²)."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyqd.evolution.crossover import MIN_SUM, crossover_coefficients


@given(st.integers(0, 2**63 - 1), st.floats(0.2, 3), st.floats(0, 2))
def test_coefficients_sum_to_one(seed, mu, sigma):
    first, second = crossover_coefficients(torch.Generator().manual_seed(seed), mu=mu, sigma=sigma)
    assert first + second == pytest.approx(1, rel=1e-12, abs=1e-12 * abs(first))


def test_coefficients_are_the_quotients_of_two_normal_draws():
    for seed in range(50):
        omega = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.03 + 1.0
        expected = (omega / omega.sum()).tolist()
        drawn = crossover_coefficients(torch.Generator().manual_seed(seed))
        assert drawn == pytest.approx(expected, rel=1e-12)


def test_coefficients_spread_as_the_papers_sigma_says(generator):
    # ω₁/(ω₁+ω₂) ≈ 1/2 + (ε₁ − ε₂)/4 to first order, so its deviation is σ·√2/4.
    first = [crossover_coefficients(generator)[0] for _ in range(4000)]
    assert statistics.mean(first) == pytest.approx(0.5, abs=4 * 0.0106 / 4000**0.5)
    assert statistics.stdev(first) == pytest.approx(0.03 * 2**0.5 / 4, rel=0.05)


def test_without_spread_both_parents_count_the_same(generator):
    assert crossover_coefficients(generator, sigma=0.0) == (0.5, 0.5)


def test_a_coefficient_may_be_negative(generator):
    assert any(min(crossover_coefficients(generator, mu=0.5, sigma=1.0)) < 0 for _ in range(200))


def test_a_sum_too_near_zero_is_drawn_again():
    """Find seeds whose first pair cancels, and see the next usable pair of the same stream come out."""
    redrawn = 0
    for seed in range(300):
        stream = torch.Generator().manual_seed(seed)
        pairs = [torch.randn(2, dtype=torch.float64, generator=stream) for _ in range(50)]
        usable = next(pair for pair in pairs if abs(pair.sum().item()) >= MIN_SUM)
        redrawn += usable is not pairs[0]
        drawn = crossover_coefficients(torch.Generator().manual_seed(seed), mu=0.0, sigma=1.0)
        assert drawn == pytest.approx((usable / usable.sum()).tolist(), rel=1e-12)
        assert max(map(abs, drawn)) < 100
    assert redrawn > 0


@pytest.mark.parametrize("mu", [0.0, float("nan")])
def test_mixing_weights_that_always_cancel_raise_instead_of_looping(mu, generator):
    with pytest.raises(ValueError, match="mu or sigma"):
        crossover_coefficients(generator, mu=mu, sigma=0.0)
