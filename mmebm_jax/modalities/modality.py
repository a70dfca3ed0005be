"""The specification of a modality, and what the method needs of it: its likelihood and range.

Nothing outside this folder and `networks` knows what an image is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax import cpu
from mmebm_jax.batching import to_rank
from mmebm_jax.modalities.kind import Kind
from mmebm_jax.modalities.kinds import KINDS, likelihoods_of
from mmebm_jax.modalities.likelihoods import LIKELIHOODS, Likelihood
from mmebm_jax.typing import OBSERVED, Batch, Mask


@dataclass(frozen=True)
class Modality:
    """One modality.

    Attributes:
      name: the key of this modality in batches, parameters and metrics.
      kind: a key of `KINDS`, such as "image", "text" or "vector".
      shape: shape of one example in model range, (H, W, C), (L, V) or (D,).
      likelihood: a key of `LIKELIHOODS` that applies to the kind.
      scale: standard deviation (Gaussian) or scale b (Laplace), in units of the [-1, 1] range.
      weight: factor on the log-likelihood, which balances modalities of different sizes.

    Raises:
      ValueError: a kind, likelihood, shape, scale or weight is not supported.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    likelihood: str
    scale: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Reject what no network or likelihood supports."""
        if self.kind not in KINDS:
            known = ", ".join(KINDS)
            raise ValueError(f"modality {self.name}: kind {self.kind!r} is not one of {known}.")
        if self.likelihood not in likelihoods_of(self.kind):
            raise ValueError(
                f"modality {self.name}: likelihood {self.likelihood!r} does not suit kind "
                f"{self.kind}; choose one of {', '.join(likelihoods_of(self.kind))}."
            )
        if not (self.scale > 0 and self.weight > 0):
            raise ValueError(
                f"modality {self.name}: scale {self.scale} and weight {self.weight} must be > 0."
            )
        if problem := self.of_kind.problem_of_shape(self.shape):
            raise ValueError(f"modality {self.name} has shape {self.shape}: {problem}.")

    @property
    def of_kind(self) -> Kind:
        """The definition of its kind."""
        return KINDS[self.kind]

    @property
    def of_likelihood(self) -> Likelihood:
        """The definition of its likelihood."""
        return LIKELIHOODS[self.likelihood]

    @property
    def bounds(self) -> tuple[float, float]:
        """Range to which a data-space chain is clipped."""
        return self.of_kind.bounds

    @property
    def is_of_tokens(self) -> bool:
        """Whether it holds words or categories rather than numbers."""
        return self.of_kind.values == "tokens"


def log_likelihood(modality: Modality, outputs: jax.Array, observed: jax.Array) -> jax.Array:
    """Weighted log p(x | decoder outputs), summed over one example's dimensions.

    Args:
      modality: the modality's spec.
      outputs: decoder outputs, `[..., *shape]` (with more rows for an autoregressive one).
      observed: `[..., *shape]` data; text may be one-hot or relaxed.

    Returns:
      `[...]`, nats.
    """
    axes = tuple(range(-len(modality.shape), 0))
    observed = to_rank(observed, outputs.ndim)
    each = modality.of_likelihood.log_density(outputs, observed, modality.scale)
    return modality.weight * jnp.sum(each, axis=axes)


def joint_log_likelihood(
    modalities: Sequence[Modality],
    outputs: Mapping[str, jax.Array],
    batch: Batch,
    mask: Mask | None = None,
) -> jax.Array:
    """Σ_m log p(x_m | u) over the observed modalities.

    Args:
      modalities: modalities to sum over; each must be in `outputs` and `batch`.
      outputs: decoder outputs, `[..., B, *shape]`.
      batch: data, `[B, *shape]`.
      mask: name → `bool[B]`; None when everything is observed.

    Returns:
      `[..., B]`, nats.
    """
    total = jnp.zeros(())
    for modality in modalities:
        values = log_likelihood(modality, outputs[modality.name], batch[modality.name])
        if mask is not None:
            values = jnp.where(to_rank(mask[modality.name], values.ndim), values, 0.0)
        total = total + values
    return total


def means(modalities: Sequence[Modality], outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the likelihoods' means in data range, name → `[..., *shape]` (text: probabilities)."""
    return {m.name: m.of_likelihood.mean(outputs[m.name]) for m in modalities}


def simulate(
    key: jax.Array, modalities: Sequence[Modality], outputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Sample data from the likelihoods, name → `[..., *shape]`; weights are ignored."""
    keys = jax.random.split(key, len(modalities))
    return {
        m.name: m.of_likelihood.sample(k, outputs[m.name], m.scale)
        for k, m in zip(keys, modalities, strict=True)
    }


def from_raw(modality: Modality, raw: jax.Array | np.ndarray) -> jax.Array:
    """uint8 images, int32 tokens `[..., L]` or float vectors → float32 in model range."""
    return modality.of_kind.from_raw(raw, modality.shape)


def batch_from_raw(
    modalities: Sequence[Modality], raw: Batch
) -> tuple[dict[str, jax.Array], Mask | None]:
    """Convert a raw batch to model range; also return its mask (see `mask_of`)."""
    return {m.name: from_raw(m, raw[m.name]) for m in modalities}, mask_of(modalities, raw)


def mask_of(modalities: Sequence[Modality], raw: Batch) -> Mask | None:
    """Return the mask of a raw batch, name → `bool[B]`; None if data are complete."""
    if OBSERVED not in raw:
        return None
    columns = zip(modalities, np.transpose(raw[OBSERVED]), strict=True)
    return {modality.name: column for modality, column in columns}


def to_raw(modality: Modality, values: jax.Array | np.ndarray) -> np.ndarray:
    """Model range → raw data, the inverse of `from_raw`; for text, the likeliest tokens."""
    return modality.of_kind.to_raw(np.asarray(values))


def uniform_noise(
    key: jax.Array, modalities: Sequence[Modality], samples: Batch
) -> dict[str, jax.Array]:
    """Draw uniform noise over each modality's bounds, for those modalities that `samples` has."""
    keys = jax.random.split(key, len(modalities))
    return {
        m.name: jax.random.uniform(k, samples[m.name].shape, samples[m.name].dtype, *m.bounds)
        for m, k in zip(modalities, keys, strict=True)
        if m.name in samples
    }


def with_noise(key: jax.Array, modality: Modality, values: jax.Array, scale: float) -> jax.Array:
    """Add Gaussian noise to values `[B, *shape]`, clipped to the modality's bounds as chains are.

    Values outside the bounds would distinguish data from a chain's samples.
    """
    noise = scale * cpu.normal(key, values.shape, values.dtype)
    return jnp.clip(values + noise, *modality.bounds)


def likeliest_tokens(modalities: Sequence[Modality], samples: Batch) -> dict[str, jax.Array]:
    """Return the likeliest words and categories of samples, name → one-hot `[B, *shape]`."""
    return {
        m.name: jax.nn.one_hot(samples[m.name].argmax(axis=-1), m.shape[-1])
        for m in modalities
        if m.is_of_tokens and m.name in samples
    }


def where_observed(mask: Mask, data: Batch, otherwise: Batch) -> dict[str, jax.Array]:
    """Return `data` where the mask says it is observed, and `otherwise` elsewhere."""
    return {
        name: jnp.where(mask[name].reshape(-1, *[1] * (values.ndim - 1)), data[name], values)
        for name, values in otherwise.items()
    }


def hide_missing(batch: Batch, mask: Mask) -> dict[str, jax.Array]:
    """Set missing modalities of a batch to zeros."""
    return where_observed(mask, batch, {name: jnp.zeros_like(x) for name, x in batch.items()})
