"""Precision, recall, density and coverage: two measures each of fidelity and of diversity.

Precision and recall after Kynkäänniemi et al. 2019 (arXiv:1904.06991), density and coverage after
Naeem et al. 2020 (arXiv:2002.09797). The manifold of a set is the union of one open ball per
example, whose radius is the distance to the k-th nearest neighbour in the set.
"""

from typing import Any

import numpy as np

from mmebm_jax.metrics.neighbours import check_width, distance_chunks, features_of


def prdc(real: Any, generated: Any, *, num_neighbours: int = 5) -> dict[str, float]:
    """How well the manifolds of real and generated features cover each other.

    All four depend on the numbers of examples and on the features: state both, and report the
    values for held-out real data too.

    Args:
        real: features `[N, F]`.
        generated: features `[M, F]` from the same network.
        num_neighbours: k, at least 1 and less than N and M.

    Returns:
        - "precision": share of generated examples inside the real manifold.
        - "recall": share of real examples inside the generated manifold.
        - "density": mean number of real balls around a generated example, over k; about 1 for
          samples from the data's distribution, exactly 1 for a copy of `real`, not bounded by 1.
        - "coverage": share of real examples whose ball contains a generated example; for samples
          from the data's distribution, 1 − Π_{i=1}^{k} (N − i) / (N + M − i) is expected.

    Raises:
        ValueError: k is out of range, or arrays are empty, not finite or of different width.
    """
    real, generated = features_of("real features", real), features_of("generated ones", generated)
    check_width(real, generated)
    fewest = min(len(real), len(generated))
    if not 1 <= num_neighbours < fewest:
        raise ValueError(
            f"{num_neighbours} neighbours among {fewest} examples; pass 1 to {fewest - 1}"
        )
    real_radii = _radii(real, num_neighbours)
    generated_radii = _radii(generated, num_neighbours)
    balls_around = np.zeros(len(generated))  # real balls that contain each generated example
    recalled, covered, start = [], [], 0
    for distances in distance_chunks(real, generated):
        radii = real_radii[start : start + len(distances)]
        start += len(distances)
        balls_around += (distances < radii[:, None]).sum(0)
        recalled.append((distances < generated_radii).any(1))
        covered.append(distances.min(1) < radii)
    return {
        "precision": float(np.mean(balls_around > 0)),
        "recall": float(np.mean(np.concatenate(recalled))),
        "density": float(np.mean(balls_around) / num_neighbours),
        "coverage": float(np.mean(np.concatenate(covered))),
    }


def _radii(features: np.ndarray, num_neighbours: int) -> np.ndarray:
    """Distance of each row `[N, F]` to its k-th nearest other row, `[N]`."""
    # Each row's nearest row is itself, at 0, so its k-th neighbour is at position k.
    return np.concatenate(
        [
            np.partition(distances, num_neighbours, axis=1)[:, num_neighbours]
            for distances in distance_chunks(features, features)
        ]
    )
