"""Vectors: `[B, D]` float32 in about [-1, 1], both raw and in the model."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.modalities.kind import Kind, KindNetworks, Shape, unchanged
from mmebm_jax.networks.classifier import DenseClassifier
from mmebm_jax.networks.perceptron import PerceptronDecoder
from mmebm_jax.networks.vector import VectorExpert, VectorTrunk
from mmebm_jax.typing import Alphabet

# A few numbers without a grid: every choice of networks means these perceptrons.
PERCEPTRONS = dict.fromkeys(
    ("small", "resnet", "transformer"),
    KindNetworks(
        expert=lambda shape, sizes: VectorExpert(sizes.hidden),
        decoder=lambda shape, sizes: PerceptronDecoder(shape, sizes.hidden),
        trunk=lambda shape, sizes: VectorTrunk(sizes.hidden),
    ),
)
LIMIT = 100.0  # far outside the range of about [-1, 1] that a chain may reach


def _from_raw(raw: jax.Array | np.ndarray, shape: Shape) -> jax.Array:
    del shape
    return jnp.asarray(raw, jnp.float32)


def _problems(raw: np.ndarray, shape: Shape) -> tuple[np.ndarray, str]:
    del shape
    return ~(np.abs(raw) <= LIMIT).all(axis=1), "is not a number in about [-1, 1]"


def _draw(values: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Draw strips of D grey cells, a quarter as high as they are wide."""
    del alphabet
    shades = np.nan_to_num(np.asarray(values, np.float32), posinf=1, neginf=-1)
    shades = np.round((np.clip(shades, -1, 1) + 1) * 127.5).astype(np.uint8)
    height = math.ceil(values.shape[1] / 4)
    strips = np.repeat(shades[:, None, :, None], height, axis=1)
    return np.broadcast_to(strips, (*strips.shape[:-1], 3))


VECTOR = Kind(
    name="vector",
    values="numbers",
    dimensions=("size",),
    bounds=(-1.05, 1.05),  # a small margin for a chain to move in
    raw_dtype=np.float32,
    accepted="float in [-1, 1]",
    raw_shape=lambda shape: shape,
    is_raw=lambda dtype: False,
    from_raw=_from_raw,
    to_raw=lambda values: values.astype(np.float32),
    problem_of_shape=lambda shape: "",
    problems=_problems,
    networks=PERCEPTRONS,
    classifier=DenseClassifier,
    augment=unchanged,
    draw=_draw,
)
