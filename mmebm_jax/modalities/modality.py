"""What the core knows of a modality: its name, shape, and likelihood.

Three kinds of modality exist. An `image` is `[B, H, W, C]` in [-1, 1]. A `sequence` is `[B, L, V]`:
one-hot in the data, probabilities in samples, so that Langevin dynamics may move it (the relaxed
one-hot). A `vector` is `[B, D]` in about [-1, 1]. Raw data holds images as uint8, sequences as
int32 tokens `[B, L]`, and vectors as they are, float32.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("image", "sequence", "vector")
LIKELIHOODS = {
    "image": ("gaussian", "laplace"),
    "sequence": ("categorical",),
    "vector": ("gaussian", "laplace"),
}


@dataclass(frozen=True)
class Modality:
    """One modality.

    Attributes:
      name: the key of this modality in batches, parameters and metrics.
      kind: "image", "sequence" or "vector".
      shape: of one example in model range, (H, W, C), (L, V) or (D,).
      likelihood: "gaussian" or "laplace" for images and vectors, "categorical" for sequences.
      scale: standard deviation (Gaussian) or scale b (Laplace), in units of the [-1, 1] range.
      weight: factor on the log-likelihood, which balances modalities of different sizes.

    Raises:
      ValueError: a kind, likelihood, scale or weight that does not exist or is not positive.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    likelihood: str
    scale: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no network or likelihood can serve."""
        if self.kind not in KINDS:
            raise ValueError(f"modality {self.name}: kind {self.kind!r} is not one of {KINDS}.")
        if self.likelihood not in LIKELIHOODS[self.kind]:
            raise ValueError(
                f"modality {self.name}: likelihood {self.likelihood!r} does not suit kind "
                f"{self.kind}; choose one of {LIKELIHOODS[self.kind]}."
            )
        if not (self.scale > 0 and self.weight > 0):
            raise ValueError(
                f"modality {self.name}: scale {self.scale} and weight {self.weight} must be > 0."
            )
        if self.kind == "image" and (self.shape[0] % 4 or self.shape[1] % 4):
            raise ValueError(
                f"modality {self.name}: height and width {self.shape[:2]} must be divisible by 4."
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Range to which a data-space chain is clipped; [-1, 1] gets a small margin to move in."""
        return (0.0, 1.0) if self.kind == "sequence" else (-1.05, 1.05)


def log_likelihood(modality: Modality, outputs: jax.Array, observed: jax.Array) -> jax.Array:
    """Weighted log p(x | decoder outputs), summed over one example's dimensions.

    Args:
      modality: the modality's spec.
      outputs: `[..., *shape]` from the decoder: means of an image or a vector, logits of a
        sequence.
      observed: `[..., *shape]` data; a sequence may be one-hot or relaxed.

    Returns:
      `[...]`, nats.
    """
    axes = tuple(range(-len(modality.shape), 0))
    if modality.likelihood == "categorical":
        elementwise = observed * jax.nn.log_softmax(outputs, axis=-1)
    elif modality.likelihood == "gaussian":
        elementwise = (
            -0.5 * jnp.square((observed - outputs) / modality.scale)
            - math.log(modality.scale)
            - 0.5 * math.log(2 * math.pi)
        )
    else:
        elementwise = -jnp.abs(observed - outputs) / modality.scale - math.log(2 * modality.scale)
    return modality.weight * jnp.sum(elementwise, axis=axes)


def mean(modality: Modality, outputs: jax.Array) -> jax.Array:
    """The likelihood's mean in data range, `[..., *shape]`: probabilities for a sequence."""
    if modality.kind == "sequence":
        return jax.nn.softmax(outputs, axis=-1)
    return jnp.clip(outputs, -1.0, 1.0)


def means(modalities: Sequence[Modality], outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Each likelihood's mean, name → `[..., *shape]`; see `mean`."""
    return {m.name: mean(m, outputs[m.name]) for m in modalities}


def from_raw(modality: Modality, raw: jax.Array | np.ndarray) -> jax.Array:
    """uint8 images, int32 tokens `[..., L]` or float vectors → float32 in model range."""
    if modality.kind == "sequence":
        return jax.nn.one_hot(raw, modality.shape[-1])
    values = jnp.asarray(raw, jnp.float32)
    return values / 127.5 - 1.0 if modality.kind == "image" else values


def to_raw(modality: Modality, values: jax.Array | np.ndarray) -> np.ndarray:
    """Model range → raw data, the inverse of `from_raw`; a sequence's likeliest tokens."""
    values = np.asarray(values)
    if modality.kind == "image":
        return np.round((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    if modality.kind == "sequence":
        return values.argmax(axis=-1).astype(np.int32)
    return values.astype(np.float32)


def noise_like(key: jax.Array, modality: Modality, values: jax.Array) -> jax.Array:
    """Uniform noise over the modality's bounds in the shape of `values`."""
    return jax.random.uniform(key, values.shape, values.dtype, *modality.bounds)
