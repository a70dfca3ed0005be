"""Fréchet distance between Gaussians fitted to features.

With the features of this library's own classifiers it ranks models on one data set. It must not be
called FID then: FID means Inception features, and the two are not comparable.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

Statistics = tuple[np.ndarray, np.ndarray]
"""Mean `[F]` and covariance `[F, F]`, float64."""


def gaussian_statistics(features: Any, *, refuse_few: bool = False) -> Statistics:
    """Fits a Gaussian to features, in float64 whatever their type.

    Args:
        features: `[N, F]`, finite, N at least 2.
        refuse_few: whether N ≤ F, where the covariance is singular and distances are biased
            upwards, is an error; otherwise it only warns, so that a small trial run still finishes.

    Returns:
        Mean `[F]` and unbiased covariance `[F, F]`.

    Raises:
        ValueError: the wrong shape, N < 2, a feature that is not finite, or as for `refuse_few`.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}; need [N, F] with N at least 2")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity; look for diverged samples")
    num_examples, num_features = features.shape
    if num_examples <= num_features:
        problem = f"{num_examples} examples for {num_features} features: the Fréchet distance "
        mend = f"use at least {num_features + 1}, better ten times as many"
        if refuse_few:
            raise ValueError(f"{problem}needs more examples than features; {mend}")
        warnings.warn(f"{problem}is biased upwards; {mend}", stacklevel=2)
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def weighted_statistics(features: Any, weights: np.ndarray) -> Statistics:
    """Mean `[F]` and covariance `[F, F]` of features `[N, F]` with weights `[N]` of sum 1.

    Nothing is checked, and the covariance is not corrected for the error of the mean.
    """
    features = np.asarray(features, np.float64)
    mean = weights @ features
    away = features - mean
    return mean, (weights[:, None] * away).T @ away


def frechet_distance(stats_a: Statistics, stats_b: Statistics) -> float:
    """Squared 2-Wasserstein distance between two Gaussians (Dowson and Landau 1982).

        |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½)

    Args:
        stats_a: mean `[F]` and covariance `[F, F]`, symmetric positive semi-definite.
        stats_b: likewise, of the same F.

    Returns:
        The distance, at least 0, in squared units of the features. Singular covariances are fine.

    Raises:
        ValueError: the shapes of the statistics differ.
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = stats_a, stats_b
    shapes = [np.shape(array) for array in (mean_a, covariance_a, mean_b, covariance_b)]
    num_features = shapes[0][0] if shapes[0] else 0
    if shapes != [(num_features,), (num_features, num_features)] * 2:
        raise ValueError(f"statistics have shapes {shapes}; need mean [F], covariance [F, F] twice")
    shift = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    # tr((A^½ B A^½)^½) is the sum of the singular values of A^½ B^½. Using these, rather than the
    # root of a product, avoids negative and complex eigenvalues and halves the digits lost.
    overlap = np.linalg.svd(_root(covariance_a) @ _root(covariance_b), compute_uv=False).sum()
    distance = shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * overlap
    return max(float(distance), 0.0)


def frechet_by_modality(
    features: Mapping[str, Any], reference: Mapping[str, Statistics]
) -> dict[str, Any]:
    """Distance of each modality's features to its reference.

    Args:
        features: modality name to `[N, F]`.
        reference: modality name to the statistics of real data; those not in `features` are unused.

    Returns:
        "mean" over modalities, and "by_modality".

    Raises:
        ValueError: no features, a modality without reference, or no more examples than features
            (the message names the number needed).
    """
    if not features:
        raise ValueError("no features to compare; pass at least one modality")
    distances = {
        name: _distance(name, values, reference, name) for name, values in features.items()
    }
    return {"mean": float(np.mean(list(distances.values()))), "by_modality": distances}


def frechet_floor(
    train: Mapping[str, Any], reference: Mapping[str, Statistics], num_samples: int
) -> dict[str, Any]:
    """Distance of real training data to the reference, which no generator is expected to beat.

    The upward bias of the distance grows as the number of examples falls, so the floor uses as many
    training examples as there are samples of the model.

    Args:
        train: modality name to features `[N, F]` of training data, in random order.
        reference: modality name to the statistics of test data.
        num_samples: number of training examples to use, at most N: that of the model's samples.

    Returns:
        As `frechet_by_modality`.

    Raises:
        ValueError: fewer training examples than `num_samples`, or as `frechet_by_modality`.
    """
    for name, values in train.items():
        if len(values) < num_samples:
            raise ValueError(
                f"{name} has {len(values)} training examples for a floor of {num_samples} samples; "
                f"pass at least {num_samples}, or draw fewer samples"
            )
    return frechet_by_modality({n: v[:num_samples] for n, v in train.items()}, reference)


def conditional_frechet(
    features: Mapping[str, Mapping[str, Any]], reference: Mapping[str, Statistics]
) -> dict[str, Any]:
    """Distance of each target, generated from each source, to the target's reference.

    Args:
        features: source name to target name to `[N, F]`; a target may equal its source.
        reference: target name to the statistics of real data.

    Returns:
        - "mean": over pairs of different source and target.
        - "with_self": over all pairs, including the source's own reconstruction, as in the protocol
          of PolyMNIST (public code of MMVAE+, OpenReview sdQGxouELX); absent unless every source is
          also a target.
        - "by_source_and_target": source to target to distance.

    Raises:
        ValueError: no target that differs from its source, a target without reference, or no more
            examples than features (the message names the number needed).
    """
    distances = {
        source: {
            target: _distance(f"{source} to {target}", values, reference, target)
            for target, values in targets.items()
        }
        for source, targets in features.items()
    }
    crossed = [d for s, targets in distances.items() for t, d in targets.items() if t != s]
    if not crossed:
        raise ValueError("no target differs from its source; pass features[source][target]")
    result = {"mean": float(np.mean(crossed)), "by_source_and_target": distances}
    if all(source in targets for source, targets in distances.items()):
        everything = [d for targets in distances.values() for d in targets.values()]
        result["with_self"] = float(np.mean(everything))
    return result


def _distance(label: str, features: Any, reference: Mapping[str, Statistics], name: str) -> float:
    if name not in reference:
        raise ValueError(f"{name} has no reference; there are {', '.join(reference) or 'none'}")
    try:
        return frechet_distance(gaussian_statistics(features, refuse_few=True), reference[name])
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
