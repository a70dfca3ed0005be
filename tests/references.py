"""Reference formulas in NumPy that several test files use."""

import numpy as np


def consensus_by_inverses(means, scales, correlation):
    """Means and variances, each [Z], for experts [M, Z] with correlated errors."""
    correlations = np.where(np.eye(len(means)), 1, correlation)
    each = []
    for mean, scale in zip(means.T, scales.T, strict=True):
        inverse = np.linalg.inv(np.outer(scale, scale) * correlations)
        each.append((inverse.sum(0) @ mean / inverse.sum(), 1 / inverse.sum()))
    return np.transpose(each)
