"""What training carries from step to step."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.method.prior import BasePrior, standard
from mmebm_jax.typing import Params

MOST_BYTES = 16 * 2**30  # of sampling weights; training holds four times as much
Optimisers = Mapping[str, optax.GradientTransformation]


class Weights(NamedTuple):
    """All that sampling needs: saved as an item of its own."""

    params: dict[str, Params]  # network → moving average of its parameters
    base_prior: BasePrior


class TrainState(NamedTuple):
    """The state of a run; the key of a step is `fold_in(run_key, step)` and is not kept."""

    step: jax.Array  # shape=(), dtype=int32
    params: dict[str, Params]  # by network
    optimiser: dict[str, Any]  # by network, Optax states
    num_updates: dict[str, jax.Array]  # by network, shape=(), dtype=int32
    weights: Weights


def create(key: jax.Array, model: Model, optimisers: Optimisers, num_components: int) -> TrainState:
    """A fresh state: random parameters, standard base prior in the shapes of its mixture."""
    params = model.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimiser={name: optimisers[name].init(params[name]) for name in NETWORKS},
        num_updates={name: jnp.zeros((), jnp.int32) for name in NETWORKS},
        weights=Weights(
            params=jax.tree.map(jnp.array, params),
            base_prior=standard(num_components, model.num_latents, model.prior_family),
        ),
    )


def template(model: Model, num_components: int) -> Weights:
    """Shapes and types of the sampling weights, without computing any.

    Raises:
      ValueError: they would take more than `MOST_BYTES`.
    """
    weights = jax.eval_shape(
        lambda: Weights(
            model.init(jax.random.key(0)),
            standard(num_components, model.num_latents, model.prior_family),
        )
    )
    parts = {f"the network {name!r}": tree for name, tree in weights.params.items()}
    parts["the mixture of config.prior.num_components"] = weights.base_prior
    size = {
        name: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for name, tree in parts.items()
    }
    if sum(size.values()) > MOST_BYTES:
        largest = max(size, key=lambda name: size[name])
        raise ValueError(
            f"the model would take {sum(size.values()) / 2**30:.0f} GiB, more than "
            f"{MOST_BYTES // 2**30}, most of it {largest}: lower the sizes in config.model."
        )
    return weights
