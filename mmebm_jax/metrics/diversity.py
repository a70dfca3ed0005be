"""Diversity: how much draws for one source differ, and whether samples repeat classes or data.

Coherence rewards a generator that always draws the same, so report every coherence with a
diversity. The ratios here are 1 for draws from the data's own distribution and 0 for a
deterministic generator.
"""

from typing import Any

import numpy as np

from mmebm_jax.metrics.neighbours import nearest_distances

COPY_QUANTILE = 0.01  # of the distances of held-out data; a nearer sample counts as a copy


def conditional_diversity(
    draws: Any, source_labels: Any, real: Any, real_labels: Any
) -> dict[str, float]:
    """Spread of the draws for one source, over that of real data of the source's class.

        √( mean_n mean_f Var_k(d_nkf) )  /  √( mean_n mean_f Var_{r: y_r = y_n}(x_rf) )

    with unbiased variances: over the K draws d_nk for source n in the numerator, over all real
    examples of its class in the denominator. Variances, not standard deviations, are averaged over
    features and sources, so the ratio depends neither on K nor on the axes of the features, and
    draws from real data of the class give 1. Pixels are features too. A generator that misses the
    class spreads wider than the class and may exceed 1, so read this with cross coherence.

    Args:
        draws: `[N, K, ...]`, K ≥ 2 draws of one target for each of N sources: features or pixels.
        source_labels: `int[N]`, classes of the sources.
        real: `[R, ...]`, the same features or pixels of real examples of the target.
        real_labels: `int[R]`; every source's class occurs at least twice.

    Returns:
        "ratio", as above, at least 0; "draws" and "data", its numerator and denominator in units of
        the features.

    Raises:
        ValueError: shapes do not fit together, there are fewer than two draws or two real examples
            of a class, values are not finite, or real data have no spread.
    """
    draws, real = np.asarray(draws), np.asarray(real)
    source_labels, real_labels = np.asarray(source_labels), np.asarray(real_labels)
    if draws.ndim < 3 or draws.shape[1] < 2 or draws.shape[2:] != real.shape[1:]:
        raise ValueError(
            f"draws have shape {draws.shape} and real data {real.shape}; "
            "need [N, K, ...] with K at least 2 and [R, ...]"
        )
    for name, labels, count in (
        ("sources", source_labels, len(draws)),
        ("real examples", real_labels, len(real)),
    ):
        if labels.shape != (count,):
            raise ValueError(f"labels {labels.shape} for {count} {name}; pass one each")
    of_draws = np.mean([_variance(draws[n]) for n in range(len(draws))])
    by_class = {}
    for label in np.unique(source_labels):
        members = real[real_labels == label]
        if len(members) < 2:
            raise ValueError(f"class {label} has {len(members)} real examples; pass at least 2")
        by_class[label] = _variance(members)
    of_data = np.mean([by_class[label] for label in source_labels])
    if not np.isfinite([of_draws, of_data]).all():
        raise ValueError("draws or real data hold NaN or infinity; look for diverged samples")
    if of_data == 0:
        raise ValueError("real data of one class are all equal: nothing to compare draws with")
    return {
        "ratio": float(np.sqrt(of_draws / of_data)),
        "draws": float(np.sqrt(of_draws)),
        "data": float(np.sqrt(of_data)),
    }


def class_balance(predictions: Any, num_classes: int) -> dict[str, float]:
    """How evenly samples are distributed over the classes.

    Args:
        predictions: `int[N]`, predicted classes of samples from the prior.
        num_classes: C, at least 2.

    Returns:
        "entropy" of the shares over log C: 1 for equal shares, 0 for a single class (N draws from
        equal shares give about 1 − (C − 1) / (2 N log C)); "smallest_share" and "largest_share" of
        any class.

    Raises:
        ValueError: no predictions, or a class out of range.
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 1 or not len(predictions) or predictions.dtype.kind not in "iu":
        raise ValueError(
            f"predictions are {predictions.dtype}{list(predictions.shape)}; pass int[N]"
        )
    if num_classes < 2 or predictions.min() < 0 or predictions.max() >= num_classes:
        raise ValueError(
            f"predictions span {predictions.min()}..{predictions.max()}; "
            f"they must lie in 0..{num_classes - 1}, of two classes or more"
        )
    shares = np.bincount(predictions, minlength=num_classes) / len(predictions)
    present = shares[shares > 0]
    return {
        "entropy": abs(float(np.sum(present * np.log(present)) / np.log(num_classes))),
        "smallest_share": float(shares.min()),
        "largest_share": float(shares.max()),
    }


def memorisation(samples: Any, train: Any, test: Any) -> dict[str, float]:
    """Distance of samples to the nearest training example, compared with that of held-out data.

    Args:
        samples: `[N, ...]`, features or pixels of generated examples.
        train: `[R, ...]`, the same for the examples that the generator was trained on.
        test: `[T, ...]`, the same for real examples that it was not trained on.

    Returns:
        - "distance": mean Euclidean distance of a sample to its nearest training example.
        - "floor": the same for test examples. A generator as good as new data reaches it.
        - "ratio": of the two; far below 1 means memorisation, far above 1 poor samples.
        - "copied": share of samples that are nearer to a training example than all but
          `COPY_QUANTILE` of the test examples; it is `COPY_QUANTILE` for new data and 1 for a copy
          of the training set.

    Raises:
        ValueError: empty arrays, values that are not finite, sizes that differ, or a test set that
            is part of the training set.
    """
    of_samples, of_test = (nearest_distances(values, train) for values in (samples, test))
    if not of_test.mean() > 0:
        raise ValueError("every test example is a training example; pass held-out ones")
    return {
        "distance": float(of_samples.mean()),
        "floor": float(of_test.mean()),
        "ratio": float(of_samples.mean() / of_test.mean()),
        "copied": float(np.mean(of_samples <= np.quantile(of_test, COPY_QUANTILE))),
    }


def _variance(examples: np.ndarray) -> float:
    """Unbiased variance over the first axis of `[N, ...]`, mean over the others, in float64."""
    rows = examples.reshape(len(examples), -1)
    return float(np.var(rows, axis=0, ddof=1, dtype=np.float64).mean())
