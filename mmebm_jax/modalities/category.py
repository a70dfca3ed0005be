"""Categories: `[B, V]`, one-hot in data, probabilities in samples; raw data are int32 `[B]`."""

import jax
import numpy as np

from mmebm_jax.modalities.kind import Kind, Shape, unchanged
from mmebm_jax.modalities.vector import PERCEPTRONS
from mmebm_jax.networks.classifier import DenseClassifier
from mmebm_jax.typing import Alphabet


def _from_raw(raw: jax.Array | np.ndarray, shape: Shape) -> jax.Array:
    return jax.nn.one_hot(raw, shape[-1])


def _to_raw(values: np.ndarray) -> np.ndarray:
    """Return the likeliest categories."""
    return values.argmax(axis=-1).astype(np.int32)


def _problems(raw: np.ndarray, shape: Shape) -> tuple[np.ndarray, str]:
    return np.logical_or(raw < 0, raw >= shape[0]), f"leaves 0..{shape[0] - 1}"


def _draw(values: np.ndarray, alphabet: Alphabet) -> list[str]:
    """Return the number of each example's category, as a string."""
    del alphabet
    return [str(number) for number in _to_raw(values)]


CATEGORY = Kind(
    name="category",
    values="tokens",
    dimensions=("number of categories",),
    bounds=(0.0, 1.0),
    raw_dtype=np.int32,
    accepted="int or float one-hot",
    raw_shape=lambda shape: (),
    is_raw=lambda dtype: np.issubdtype(dtype, np.integer),
    from_raw=_from_raw,
    to_raw=_to_raw,
    problem_of_shape=lambda shape: "",
    problems=_problems,
    networks=PERCEPTRONS,
    classifier=DenseClassifier,
    augment=unchanged,
    draw=_draw,
)
