import warnings

import numpy as np
import pytest

from mmebm_jax.metrics.frechet import (
    frechet_distance,
    gaussian_statistics,
    weighted_statistics,
)


def _covariance(rng, size, rank):
    factor = rng.normal(size=(size, rank))
    return factor @ factor.T


def test_identical_is_zero_and_shifted_is_squared_shift():
    rng = np.random.default_rng(0)
    mean, covariance = rng.normal(size=8), _covariance(rng, 8, 12)
    shift = rng.normal(size=8)
    assert frechet_distance((mean, covariance), (mean, covariance)) == pytest.approx(0, abs=1e-9)
    distance = frechet_distance((mean, covariance), (mean + shift, covariance))
    assert distance == pytest.approx(shift @ shift, rel=1e-9)


def test_one_dimension_and_commuting_covariances():
    one = frechet_distance(
        (np.array([1.0]), np.array([[4.0]])), (np.array([3.0]), np.array([[9.0]]))
    )
    assert one == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    a, b = rng.uniform(0.1, 3, (2, 5))
    stats = [(np.zeros(5), turn @ np.diag(d**2) @ turn.T) for d in (a, b)]
    assert frechet_distance(*stats) == pytest.approx(((a - b) ** 2).sum())


def test_general_covariances_match_the_matrix_square_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = (_covariance(rng, 6, 9) for _ in range(2))
    expected = np.trace(a + b - 2 * sqrtm(a @ b).real)
    zero = np.zeros(6)
    assert frechet_distance((zero, a), (zero, b)) == pytest.approx(expected)
    assert frechet_distance((zero, b), (zero, a)) == pytest.approx(expected)


def test_singular_covariances_stay_finite():
    rng = np.random.default_rng(0)
    a, zero, mean = _covariance(rng, 16, 3), np.zeros((16, 16)), np.zeros(16)
    assert frechet_distance((mean, a), (mean, a)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance((mean, a), (mean, zero)) == pytest.approx(np.trace(a))
    assert frechet_distance((mean, zero), (mean, zero)) == 0


def test_statistics_are_float64_moments():
    features = (1000 + np.random.default_rng(0).normal(size=(500, 4))).astype(np.float32)
    mean, covariance = gaussian_statistics(features)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(0))
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64).T))
    assert gaussian_statistics(np.arange(5.0)[:, None])[1].shape == (1, 1)


def test_few_examples_warn_and_bad_features_raise():
    with pytest.warns(UserWarning, match="4 examples for 8 features"):
        gaussian_statistics(np.random.default_rng(0).normal(size=(4, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaussian_statistics(np.random.default_rng(0).normal(size=(9, 8)))
    with pytest.raises(ValueError, match="N at least 2"):
        gaussian_statistics(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="diverged"):
        gaussian_statistics(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance((np.zeros(2), np.eye(2)), (np.zeros(3), np.eye(3)))


def test_weighted_moments_are_those_of_repeated_rows():
    rng = np.random.default_rng(1)
    features, counts = rng.normal(size=(6, 3)), np.array([1, 2, 3, 1, 4, 2])
    mean, covariance = weighted_statistics(features, counts / counts.sum())
    repeated = np.repeat(features, counts, axis=0)
    np.testing.assert_allclose(mean, repeated.mean(0))
    np.testing.assert_allclose(covariance, np.cov(repeated.T, bias=True))
