"""The state that training carries from step to step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.distributions.base_prior import BasePrior, with_clusters
from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.typing import Params

Optimisers = Mapping[str, optax.GradientTransformation]


class Weights(NamedTuple):
    """Everything that sampling needs, saved as a separate item of a checkpoint."""

    params: dict[str, Params]  # network → moving average of its parameters
    base_prior: BasePrior


class TrainState(NamedTuple):
    """The state of a run; the key of a step is `fold_in(run_key, step)` and is not stored."""

    step: jax.Array  # shape=(), dtype=int32
    params: dict[str, Params]  # by network
    optimiser: dict[str, Any]  # by network, Optax states
    num_updates: dict[str, jax.Array]  # by network, shape=(), dtype=int32
    weights: Weights


def create(key: jax.Array, model: Model, optimisers: Optimisers, num_components: int) -> TrainState:
    """Create a fresh state: random parameters, and a standard base prior in a mixture's shapes."""
    params = model.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimiser={name: optimisers[name].init(params[name]) for name in NETWORKS},
        num_updates={name: jnp.zeros((), jnp.int32) for name in NETWORKS},
        weights=Weights(
            params=jax.tree.map(jnp.array, params),
            base_prior=with_clusters(model.standard_prior(num_components), params["generator"]),
        ),
    )
