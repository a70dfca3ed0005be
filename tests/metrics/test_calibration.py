"""For a linear generator the posterior is known, and so is the result for a wrong one."""

import jax
import numpy as np
import pytest
from scipy.stats import norm

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain
from mmebm_jax.metrics.calibration import (
    calibration_ranks,
    density_coverage,
    interval_coverage,
    uniformity_test,
)

NUM_EXAMPLES, NUM_DRAWS, SIGMA = 1000, 99, 0.7
MATRIX = np.random.default_rng(0).normal(size=(4, 3))
PRECISION = np.eye(3) + MATRIX.T @ MATRIX / SIGMA**2
COVARIANCE = np.linalg.inv(PRECISION)


def _log_joint(x, z):
    """log p(x, z) `[N, L]`, up to a constant, for x `[N, 4]` and z `[N, L, 3]`."""
    return -0.5 * (z**2).sum(-1) - ((x[:, None] - z @ MATRIX.T) ** 2).sum(-1) / (2 * SIGMA**2)


def _simulate(width=1.0, shift=0.0):
    """(truth, draws, their log joint densities) for z ~ N(0, I), x = A z + σ ε.

    Draws come from the posterior with its standard deviation multiplied by `width` and its mean
    shifted by `shift` standard deviations.
    """
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(NUM_EXAMPLES, 3))
    x = truth @ MATRIX.T + SIGMA * rng.normal(size=(NUM_EXAMPLES, 4))
    mean = x @ MATRIX @ COVARIANCE / SIGMA**2 + shift * np.sqrt(np.diagonal(COVARIANCE))
    noise = rng.normal(size=(NUM_EXAMPLES, NUM_DRAWS, 3)) @ np.linalg.cholesky(COVARIANCE).T
    draws = mean[:, None] + width * noise

    return truth, draws, _log_joint(x, truth[:, None])[:, 0], _log_joint(x, draws)


def test_ranks_and_coverage_by_hand():
    truth = np.array([[2.5, 0.0]])
    draws = np.array([[[1, 1], [2, 2], [3, 3], [4, -1]]])
    ranks = calibration_ranks(truth, draws)
    np.testing.assert_array_equal(ranks, [[2, 1]])
    # Ranks 2 and 1 of 0 … 4 are 0 and .4 from the centre, on a scale up to 1.
    assert interval_coverage(ranks, 4, (0.1, 0.39, 0.41)) == {0.1: 0.5, 0.39: 0.5, 0.41: 1.0}
    # One of four draws has a higher density than the truth: (1 + .5) / 5.
    assert density_coverage([2.0], [[1, 0, 3, -5]], (0.29, 0.31)) == {0.29: 0.0, 0.31: 1.0}


def test_chi_squared_by_hand():
    # 14 and 6 where 10 and 10 are expected: 16 / 10 twice, with one degree of freedom.
    ranks = np.stack([np.arange(20) < 6, np.arange(20) < 10], axis=1).astype(int)
    result = uniformity_test(ranks, 1)
    np.testing.assert_array_equal(result["histogram"], [[14, 10], [6, 10]])
    p_value = 2 * norm.sf(np.sqrt(3.2))
    np.testing.assert_allclose(result["p_values"], [p_value, 1])
    assert result["smallest_p_value"] == pytest.approx(2 * p_value)
    assert uniformity_test(ranks[:, 1], 1)["smallest_p_value"] == 1


def test_the_exact_posterior_is_calibrated():
    truth, draws, true_density, draws_density = _simulate()
    ranks = calibration_ranks(truth, draws)
    result = uniformity_test(ranks, NUM_DRAWS)
    assert result["smallest_p_value"] > 0.01
    assert result["p_values"].shape == (3,)
    assert result["histogram"].shape == (20, 3)
    assert result["expected"] == NUM_EXAMPLES / 20
    for coverage in (
        interval_coverage(ranks, NUM_DRAWS),
        density_coverage(true_density, draws_density),
    ):
        for level, share in coverage.items():
            assert share == pytest.approx(level, abs=0.05)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_a_posterior_of_wrong_width_is_not(width):
    truth, draws, true_density, draws_density = _simulate(width)
    ranks = calibration_ranks(truth, draws)
    assert uniformity_test(ranks, NUM_DRAWS)["smallest_p_value"] < 1e-6
    assert (
        uniformity_test(calibration_ranks(true_density, draws_density), NUM_DRAWS)[
            "smallest_p_value"
        ]
        < 1e-6
    )
    for level, share in interval_coverage(ranks, NUM_DRAWS).items():
        # The interval's half width is `width` times what it should be.
        expected = 2 * norm.cdf(width * norm.ppf((1 + level) / 2)) - 1
        assert share == pytest.approx(expected, abs=0.05)
    half = density_coverage(true_density, draws_density)[0.5]
    assert half < 0.3 if width < 1 else half > 0.7


def test_a_shifted_posterior_is_not():
    ranks = calibration_ranks(*_simulate(shift=0.5)[:2])
    assert uniformity_test(ranks, NUM_DRAWS)["smallest_p_value"] < 1e-6
    assert ranks.mean() < 0.4 * NUM_DRAWS


def test_a_deterministic_posterior_covers_nothing():
    truth, draws, *_ = _simulate(width=0.0)
    ranks = calibration_ranks(truth, draws)
    assert set(np.unique(ranks)) == {0, NUM_DRAWS}
    assert max(interval_coverage(ranks, NUM_DRAWS).values()) == 0


def test_the_prior_in_place_of_the_posterior_shows_in_the_density_alone():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(NUM_EXAMPLES, 3))
    draws = rng.normal(size=(NUM_EXAMPLES, NUM_DRAWS, 3))
    assert uniformity_test(calibration_ranks(truth, draws), NUM_DRAWS)["smallest_p_value"] > 0.01
    x = truth @ MATRIX.T + SIGMA * rng.normal(size=(NUM_EXAMPLES, 4))

    ranks = calibration_ranks(_log_joint(x, truth[:, None])[:, 0], _log_joint(x, draws))
    assert uniformity_test(ranks, NUM_DRAWS)["smallest_p_value"] < 1e-6


def test_ranks_of_a_langevin_chain_become_uniform():
    num_examples, num_draws = 400, 19
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(num_examples, 3))
    x = truth @ MATRIX.T + SIGMA * rng.normal(size=(num_examples, 4))
    repeated = np.repeat(x, num_draws, axis=0).astype(np.float32)
    start = np.zeros((len(repeated), 3), np.float32)

    def energy(z):
        return 0.5 * (z**2).sum(-1) + ((repeated - z @ MATRIX.T) ** 2).sum(-1) / (2 * SIGMA**2)

    def p_value(num_steps):
        chain = Chain(num_steps, 0.15)
        end = langevin.run(jax.random.key(0), start, energy, chain).position
        draws = np.asarray(end).reshape(num_examples, num_draws, 3)
        return uniformity_test(calibration_ranks(truth, draws), num_draws)["smallest_p_value"]

    assert p_value(2) < 1e-6
    assert p_value(400) > 0.01


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"need \[N, D\] and \[N, L, D\]"):
        calibration_ranks(np.zeros((3, 2)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="diverged"):
        calibration_ranks(np.zeros((3, 2)), np.full((3, 5, 2), np.nan))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.9"):
        uniformity_test(np.array([0, 10]), 9)
    with pytest.raises(ValueError, match="19, 39 or 99 draws"):
        uniformity_test(np.zeros(100, int), 100)
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval_coverage(np.zeros(3, int), 9, (0.5, 1.0))
