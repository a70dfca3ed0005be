"""Gaussians on a ring: two dimensions in which every density can be drawn beside the truth."""

import numpy as np

from mmebm_jax.data.source import ArraySource, DataSplits, Field

NUM_MODES = 8


def centres(radius: float, num_modes: int = NUM_MODES) -> np.ndarray:
    """The modes' centres `[num_modes, 2]`, evenly spaced, the first at angle 0."""
    angles = 2 * np.pi * np.arange(num_modes) / num_modes
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _split(seed: int, split: int, num: int, radius: float, sigma: float) -> ArraySource:
    rng = np.random.default_rng([seed, split])
    labels = rng.permutation(np.arange(num) % NUM_MODES).astype(np.int32)
    points = centres(radius)[labels] + sigma * rng.standard_normal((num, 2))
    # One point in a million lies beyond the square, at the default scale.
    points = np.clip(points, -1, 1).astype(np.float32)
    return ArraySource({"x": points[:, :1], "y": points[:, 1:], "label": labels})


def ring(
    seed: int = 0,
    num_train: int = 20_000,
    num_test: int = 2_000,
    radius: float = 0.64,
    sigma: float = 0.08,
) -> DataSplits:
    """Makes the data set in memory, the same one for the same arguments.

    Eight isotropic Gaussians of equal mass on a ring around the origin. The two coordinates are
    modalities of their own, "x" and "y", vectors of one number: each alone leaves several modes
    open. The label is the mode's number.

    Args:
        seed: 0 or more.
        num_train: training examples; modes are balanced to within one.
        num_test: test examples, likewise.
        radius: of the ring.
        sigma: standard deviation of a mode; points are clipped to [-1, 1].

    Raises:
        ValueError: an argument is out of range.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}: set it to 0 or more")
    for argument, value in (("num_train", num_train), ("num_test", num_test)):
        if value < 1:
            raise ValueError(f"{argument} is {value}: set it to 1 or more")
    if not (radius > 0 and sigma > 0 and radius + 3 * sigma <= 1):
        raise ValueError(
            f"radius is {radius} and sigma {sigma}: both must be more than 0, and radius + 3 sigma "
            "at most 1, so that the data lie in [-1, 1]"
        )
    return DataSplits(
        train=_split(seed, 0, num_train, radius, sigma),
        test=_split(seed, 1, num_test, radius, sigma),
        fields={"x": Field("vector", (1,)), "y": Field("vector", (1,))},
        num_classes=NUM_MODES,
        alphabet="",
    )
