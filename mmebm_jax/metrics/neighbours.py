"""Euclidean distances between sets of features, in chunks that fit in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

CHUNK_MIB = 128  # of distances at a time


def features_of(name: str, features: Any) -> np.ndarray:
    """Features, or any examples, as finite float64 rows.

    Args:
        name: their name in error messages.
        features: `[N, ...]`, N at least 1.

    Returns:
        `[N, F]`.

    Raises:
        ValueError: no rows, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim < 2 or not features.size:
        raise ValueError(f"{name} have shape {features.shape}; pass [N, F] with N at least 1")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} hold NaN or infinity; look for diverged samples")
    return features.reshape(len(features), -1)


def distance_chunks(rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """Yields distances `[n, M]` of the next n of `rows` `[N, F]` to all `columns` `[M, F]`.

    The full `[N, M]` matrix is never held in memory.
    """
    yield from pairwise_distances_chunked(rows, columns, working_memory=CHUNK_MIB)


def nearest_distances(queries: Any, references: Any) -> np.ndarray:
    """Distance of each query to the nearest reference.

    Args:
        queries: `[N, ...]`.
        references: `[M, ...]`, of the same size per example.

    Returns:
        `[N]` float64; exactly 0 for a query that equals a reference.

    Raises:
        ValueError: arrays that are empty or not finite, or sizes that differ.
    """
    queries, references = features_of("queries", queries), features_of("references", references)
    check_width(queries, references)
    nearest = np.concatenate([d.argmin(1) for d in distance_chunks(queries, references)])
    # Computed again for the nearest one: expanding the square leaves rounding errors instead of 0.
    return np.linalg.norm(queries - references[nearest], axis=1)


def check_width(one: np.ndarray, other: np.ndarray) -> None:
    """Checks that rows have the same width.

    Raises:
        ValueError: `one` is `[N, F]` and `other` is `[M, G]` with F ≠ G.
    """
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"{one.shape[1]} features cannot be compared with {other.shape[1]}; "
            "take both from one network"
        )
