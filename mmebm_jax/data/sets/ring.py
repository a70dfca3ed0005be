"""Gaussians on a ring: a two-dimensional data set whose density is known and easy to plot."""

from typing import Annotated

import numpy as np
import pydantic

from mmebm_jax.data.source import ArraySource, DataSplits, Field
from mmebm_jax.storage.validation import Record

NUM_MODES = 8
LICENCE = "Drawn from a formula: no licence applies."

Count = Annotated[int, pydantic.Field(ge=1, le=10**7)]
Length = Annotated[float, pydantic.Field(gt=0, lt=1)]


class Options(Record):
    """What to draw."""

    seed: int = pydantic.Field(0, ge=0, le=2**31 - 1, description="Seed of the points.")
    num_train: Count = pydantic.Field(
        20_000, description="Training examples; modes are balanced to within one."
    )
    num_test: Count = pydantic.Field(2_000, description="Test examples, balanced likewise.")
    radius: Length = pydantic.Field(0.64, description="Radius of the ring.")
    sigma: Length = pydantic.Field(
        0.08, description="Standard deviation of a mode; points are clipped to [-1, 1]."
    )

    @pydantic.model_validator(mode="after")
    def _inside_the_square(self) -> "Options":
        if self.radius + 3 * self.sigma > 1:
            raise ValueError(
                f"radius is {self.radius} and sigma {self.sigma}: radius + 3 sigma must be at most "
                "1, so that the data lie in [-1, 1]."
            )
        return self


def centres(radius: float, num_modes: int = NUM_MODES) -> np.ndarray:
    """The centres of the modes `[num_modes, 2]`, evenly spaced, the first at angle 0."""
    angles = 2 * np.pi * np.arange(num_modes) / num_modes
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _split(seed: int, split: int, num: int, radius: float, sigma: float) -> ArraySource:
    rng = np.random.default_rng([seed, split])
    labels = rng.permutation(np.arange(num) % NUM_MODES).astype(np.int32)
    points = centres(radius)[labels] + sigma * rng.standard_normal((num, 2))
    # At the default scale, one point in a million lies outside the square.
    points = np.clip(points, -1, 1).astype(np.float32)
    return ArraySource({"x": points[:, :1], "y": points[:, 1:], "label": labels})


def load(options: Options, *, prepare: bool = True) -> DataSplits:
    """Makes the data set in memory, the same one for the same options.

    Eight isotropic Gaussians of equal mass on a ring around the origin. The two coordinates are
    separate modalities, "x" and "y", vectors of one number; one coordinate alone does not determine
    the mode. The label is the mode's number.

    Args:
        options: what to draw.
        prepare: unused; nothing is kept on disk.
    """
    shape = (options.radius, options.sigma)
    return DataSplits(
        train=_split(options.seed, 0, options.num_train, *shape),
        test=_split(options.seed, 1, options.num_test, *shape),
        fields={"x": Field("vector", (1,)), "y": Field("vector", (1,))},
        num_classes=NUM_MODES,
        alphabet="",
    )
