"""Whether two modalities of an example belong together: a judge without classes, and retrieval.

Two towers, one per modality, are trained on the training pairs with a symmetric contrastive loss
(InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; in the form of Radford et al. 2021,
arXiv:2103.00020). Retrieval is the share of examples whose partner scores highest among several
candidates, which needs no classes: real pairs give its ceiling, shuffled pairs its floor.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import gammaln

from mmebm_jax.metrics.classifier import padded_batches
from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.networks.tower import ImageTower, TextTower
from mmebm_jax.typing import Params

POOL = 100  # candidates, including the right one
SIZE = 64  # of the vectors that are compared
SCALE = 20.0  # initial scale of the cosines
LARGEST_SCALE = 100.0
# Scores within it count as equal, since cosines of equal sentences differ by rounding.
TOLERANCE = 1e-5

Pair = Mapping[str, Any]
Batches = Callable[[np.random.Generator, int], Pair]
"""(random generator, number of examples) → a batch of pairs in model range, of two modalities."""


class Settings(NamedTuple):
    """How towers are trained."""

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1


def train_towers(
    key: jax.Array, kinds: Mapping[str, str], batches: Batches, settings: Settings
) -> Params:
    """Train one tower for each of two modalities.

    Args:
      key: typed PRNG key.
      kinds: modality → its kind, for two modalities.
      batches: draws training pairs.
      settings: settings of the training.

    Returns:
      Modality → the parameters of its tower, and "scale".

    Raises:
      ValueError: not two modalities, or an unknown kind.
    """
    if len(kinds) != 2 or set(kinds.values()) - set(KINDS):
        raise ValueError(
            f"kinds are {dict(kinds)}: name two modalities of kinds among {', '.join(KINDS)}."
        )
    init_key, data_key = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(data_key)))
    ordered, optimiser = tuple(kinds.items()), _optimiser(settings)
    params = _init(init_key, ordered, dict(batches(rng, 2)))
    state = optimiser.init(params)
    # Not a lax.scan: convolution gradients inside a loop body are some 30 times slower on XLA:CPU.
    for _ in range(settings.steps):
        batch = dict(batches(rng, settings.batch_size))
        params, state = _step(ordered, settings, params, state, batch)
    return jax.device_get(params)


def embed(
    kind: str,
    params: Params,
    inputs: np.ndarray,
    *,
    batch_size: int = 500,
    to_model: Callable[[np.ndarray], Any] = np.asarray,
) -> np.ndarray:
    """Embeds a modality's examples as vectors `[N, SIZE]` of norm 1.

    Args:
      kind: kind of the modality.
      params: parameters of its tower, from `train_towers`.
      inputs: `[N, ...]`, in the range that `to_model` reads (the model's own by default).
      batch_size: examples at a time.
      to_model: converts a batch of them to model range.
    """
    parts = [
        np.asarray(_vectors_of(kind, params, values))[:count]
        for count, values in padded_batches(inputs, batch_size, to_model)
    ]
    return np.concatenate(parts)


def retrieval(queries: np.ndarray, candidates: np.ndarray, pool: int = POOL) -> float:
    """The share of queries whose own candidate scores highest among `pool`, in [0, 1].

    It is the exact expectation over pools of the own candidate and others drawn without
    replacement, and over guesses among equal scores: with b others that score higher and e that
    score the same, [C(N − b, p) − C(N − 1 − b − e, p)] / [(e + 1) C(N − 1, p − 1)] for a pool of p
    among N. Chance is 1 / p.

    Args:
      queries: vectors `[N, F]`.
      candidates: vectors of the same examples, `[N, F]`.
      pool: candidates for each query, at most N.

    Raises:
      ValueError: vectors of different shapes, fewer than two, or a pool of fewer than two.
    """
    if queries.shape != candidates.shape or len(queries) < 2 or pool < 2:
        raise ValueError(
            f"queries {queries.shape}, candidates {candidates.shape}, pool {pool}: give the "
            "vectors of the same two examples or more, and a pool of at least 2."
        )
    scores = np.asarray(queries, np.float64) @ np.asarray(candidates, np.float64).T
    own = np.diag(scores)[:, None]
    better = np.sum(scores > own + TOLERANCE, axis=1)
    equal = np.sum(np.abs(scores - own) <= TOLERANCE, axis=1) - 1
    num, pool = len(queries), min(pool, len(queries))

    def ratio(count: np.ndarray) -> np.ndarray:
        """C(count, p) / C(N − 1, p − 1)."""
        enough = np.maximum(count, pool)
        log = gammaln(enough + 1) - gammaln(enough - pool + 1)
        log += gammaln(num - pool + 1) - gammaln(num) - np.log(pool)
        return np.where(count >= pool, np.exp(log), 0.0)

    shares = (ratio(num - better) - ratio(num - 1 - better - equal)) / (equal + 1)
    return float(np.mean(shares))


def _module(kind: str) -> nn.Module:
    return {"image": ImageTower, "text": TextTower}.get(kind, KINDS[kind].classifier)(SIZE)


def _vectors(kind: str, params: Params, values: jax.Array) -> jax.Array:
    outputs: Any = _module(kind).apply({"params": params}, values)
    vectors = outputs[0]
    return vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)


_vectors_of = jax.jit(_vectors, static_argnums=0)


def _optimiser(settings: Settings) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.adamw(rate, weight_decay=settings.weight_decay)


@functools.partial(jax.jit, static_argnums=1)
def _init(key: jax.Array, kinds: tuple[tuple[str, str], ...], batch: Pair) -> Params:
    params = {
        name: _module(kind).init(jax.random.fold_in(key, index), batch[name])["params"]
        for index, (name, kind) in enumerate(kinds)
    }
    return params | {"scale": jnp.log(SCALE)}


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _step(
    kinds: tuple[tuple[str, str], ...],
    settings: Settings,
    params: Params,
    state: optax.OptState,
    batch: Pair,
) -> tuple[Params, optax.OptState]:
    def loss_fn(params: Params) -> jax.Array:
        first, second = (_vectors(kind, params[name], batch[name]) for name, kind in kinds)
        scale = jnp.minimum(jnp.exp(params["scale"]), LARGEST_SCALE)
        scores = scale * first @ second.T
        own = jnp.arange(len(scores))
        loss = optax.softmax_cross_entropy_with_integer_labels
        return 0.5 * (loss(scores, own).mean() + loss(scores.T, own).mean())

    updates, state = _optimiser(settings).update(jax.grad(loss_fn)(params), state, params)
    return optax.apply_updates(params, updates), state
