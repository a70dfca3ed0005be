"""Fréchet distance between Gaussians fitted to features.

With the features of this library's own classifiers it ranks models on one data set and must never
be called FID: that name means Inception features, and the two are not comparable.
"""

import warnings
from typing import Any

import numpy as np


def gaussian_statistics(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fits a Gaussian, in float64 whatever the features come in.

    Args:
        features: `[N, F]`, finite, N at least 2.

    Returns:
        Mean `[F]` and unbiased covariance `[F, F]`. With N ≤ F the covariance is singular and
        distances are biased upwards: that warns, so that a small trial run still ends.

    Raises:
        ValueError: another shape, N < 2, or a feature that is not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}; need [N, F] with N at least 2")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity; look for diverged samples")
    num_examples, num_features = features.shape
    if num_examples <= num_features:
        warnings.warn(
            f"{num_examples} examples for {num_features} features: the Fréchet distance is biased "
            f"upwards; use more than {num_features}, better ten times as many",
            stacklevel=2,
        )
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(
    stats_a: tuple[np.ndarray, np.ndarray], stats_b: tuple[np.ndarray, np.ndarray]
) -> float:
    """Squared 2-Wasserstein distance between two Gaussians (Dowson and Landau 1982).

        |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½)

    Args:
        stats_a: mean `[F]` and covariance `[F, F]`, symmetric positive semi-definite.
        stats_b: likewise, of the same F.

    Returns:
        The distance, at least 0, in squared units of the features. Singular covariances are fine.

    Raises:
        ValueError: the statistics differ in shape.
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = stats_a, stats_b
    shapes = [np.shape(array) for array in (mean_a, covariance_a, mean_b, covariance_b)]
    num_features = shapes[0][0] if shapes[0] else 0
    if shapes != [(num_features,), (num_features, num_features)] * 2:
        raise ValueError(f"statistics have shapes {shapes}; need mean [F], covariance [F, F] twice")
    shift = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    # tr((A^½ B A^½)^½) is the sum of the singular values of A^½ B^½. Taking those, rather than the
    # root of a product, never meets a negative or complex eigenvalue and halves the digits lost.
    overlap = np.linalg.svd(_root(covariance_a) @ _root(covariance_b), compute_uv=False).sum()
    distance = shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * overlap
    return max(float(distance), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
