"""Clustering of latents compared with the classes, and linear probes of each latent."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from mmebm_jax.distributions.base_prior import BasePrior
from mmebm_jax.metrics.probe import linear_probe


def mixture_clusters(prior: BasePrior, latents: Any) -> np.ndarray:
    """The most likely component of a Gaussian mixture for each latent.

    Args:
        prior: the mixture, with K components.
        latents: `[N, Z]`.

    Returns:
        `int[N]`, 0 … K − 1.

    Raises:
        ValueError: the prior is the Laplace distribution, which has no components, or latents have
            the wrong size.
    """
    if bool(prior.is_laplace):
        raise ValueError("a Laplace prior has no components; fit a mixture to the latents first")
    log_weight, mean, whitening = (np.asarray(leaf, np.float64) for leaf in prior[:3])
    latents = np.asarray(latents, np.float64)
    if latents.ndim != 2 or latents.shape[1] != mean.shape[1]:
        raise ValueError(f"latents have shape {latents.shape}; need [N, {mean.shape[1]}]")
    scores = np.empty((len(latents), len(mean)))
    for k in range(len(mean)):
        whitened = (latents - mean[k]) @ whitening[k].T
        log_volume = np.log(np.diagonal(whitening[k])).sum()
        scores[:, k] = log_weight[k] + log_volume - 0.5 * (whitened**2).sum(1)
    return scores.argmax(1)


def clustering_scores(clusters: Any, labels: Any) -> dict[str, float]:
    """How well clusters agree with classes.

    Args:
        clusters: `int[N]`.
        labels: `int[N]`.

    Returns:
        - "nmi": normalised mutual information (over the arithmetic mean of both entropies), 0 for
          independent partitions, 1 for equal ones. More clusters than classes lower it.
        - "accuracy": with the best assignment of at most one cluster per class (Kuhn 1955). If
          there are more clusters than classes, members of the others count as wrong.
        - "purity": with every cluster assigned to its commonest class; grows to 1 with the number
          of clusters.
        - "num_clusters": number of clusters that have members.
        - "chance": share of the largest class.

    Raises:
        ValueError: no examples, or lengths that differ.
    """
    clusters, labels = np.asarray(clusters), np.asarray(labels)
    if clusters.shape != labels.shape or clusters.ndim != 1 or not len(labels):
        raise ValueError(f"clusters {clusters.shape} and labels {labels.shape}; pass int[N] twice")
    counts = contingency_matrix(labels, clusters)  # [classes, clusters]
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "accuracy": float(counts[rows, columns].sum() / len(labels)),
        "purity": float(counts.max(0).sum() / len(labels)),
        "num_clusters": float(counts.shape[1]),
        "chance": float(counts.sum(1).max() / len(labels)),
    }


def linear_probes(
    train: Mapping[str, Any], train_labels: Any, test: Mapping[str, Any], test_labels: Any
) -> dict[str, float]:
    """Test accuracy of a linear probe on each of several latents.

    The shared latent and each expert's estimate of it should hold the class; private ones should
    not.

    Args:
        train: name ("shared", "shared from m0", "private m0" …) to latents `[N, Z]`.
        train_labels: `int[N]`.
        test: the same names to latents `[K, Z]`.
        test_labels: `int[K]`.

    Returns:
        Name to accuracy in [0, 1], and "chance": the share of the largest class of the test labels.

    Raises:
        ValueError: names that differ, one called "chance", or as `linear_probe`.
    """
    if set(train) != set(test) or "chance" in train:
        raise ValueError(
            f"latents to train on are {sorted(train)}, to test on {sorted(test)}; "
            'pass the same names, none of them "chance"'
        )
    accuracies = {
        name: linear_probe(train[name], train_labels, test[name], test_labels) for name in train
    }
    shares = np.unique(np.asarray(test_labels), return_counts=True)[1] / len(test_labels)
    return accuracies | {"chance": float(shares.max())}
